//! The documents of an image: manifest, index and configuration, as far as they matter here.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::platform::Platform;

/// No manifest or index is larger than this many bytes.
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;
/// No configuration is larger than this many bytes.
pub(crate) const LARGEST_CONFIG: u64 = 8 << 20;
/// No image has more layers.
const MOST_LAYERS: usize = 4096;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Annotation by which an index of a layout names its images.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Points to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Further facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Descriptor {
    /// The name that a layout's index gives to it.
    pub(crate) fn ref_name(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }
}

/// One image: a configuration and layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

/// Several images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// Either of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// The configuration of an image, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How it is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RunConfig>,
    /// What its layers unpack to.
    pub rootfs: RootFs,
    /// How it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<History>>,
}

/// How an image is run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `NAME=VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Where commands run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Who they run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The layers of an image, unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// How one layer, or none, came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Whether there is no layer for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_layer: Option<bool>,
}

impl Document {
    /// Reads a manifest or an index.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let value: serde_json::Value = read("manifest", bytes)?;
        let bad = |why: &str| Error::BadDocument { what: "manifest", why: why.to_owned() };
        if value.get("schemaVersion").and_then(serde_json::Value::as_u64) != Some(2) {
            return Err(bad("it is not of schema version 2"));
        }
        if value.get("manifests").is_some() {
            if value.get("layers").is_some() {
                return Err(bad("it is both an index and an image"));
            }
            return Ok(Self::Index(typed("index", value)?));
        }
        let manifest: Manifest = typed("manifest", value)?;
        if manifest.layers.len() > MOST_LAYERS {
            return Err(bad("it has too many layers"));
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Config {
    /// Reads a configuration, which must be one of an image with `layers` layers.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = read("configuration", bytes)?;
        let found = config.rootfs.diff_ids.len();
        if found != layers {
            let why = format!("it is for {found} layers, and there are {layers}");
            return Err(Error::BadDocument { what: "configuration", why });
        }
        Ok(config)
    }

    /// The environment; what is not of the form `NAME=VALUE` is left out.
    pub fn env(&self) -> Vec<(bstr::BString, bstr::BString)> {
        let all = self.config.iter().flat_map(|config| config.env.iter().flatten());
        let pairs = all.filter_map(|entry| entry.split_once('='));
        let named = pairs.filter(|(name, value)| !name.is_empty() && !value.contains('\0'));
        named.map(|(name, value)| (name.into(), value.into())).collect()
    }
}

/// Reads JSON.
pub(crate) fn read<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::BadDocument { what, why: e.to_string() })
}

fn typed<T: serde::de::DeserializeOwned>(
    what: &'static str,
    value: serde_json::Value,
) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::BadDocument { what, why: e.to_string() })
}
