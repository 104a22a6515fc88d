//! What a result knows of itself: a small file beside its tree, so that the index can be made again from the store.
//!
//! ```text
//! DIR/obuild.json    {"parent": ID or null, "heading": …, "elapsed_ms": …, "base": {"name", "stamp", "digest", "origin"} or null,
//!                     "surroundings": {"workdir", "env", "network"}}
//! ```

use std::fs;
use std::io;
use std::path::Path;

use crate::contracts::Fingerprint;
use crate::id::ResultId;

/// Name of the file in a result's directory.
pub(super) const FILE: &str = "obuild.json";

/// How a result came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// What it was built on; `None` for a base image.
    pub parent: Option<ResultId>,
    /// The heading of its step.
    pub heading: String,
    /// How long the step took, in milliseconds.
    pub elapsed_ms: u32,
    /// The image it is a copy of, for a base image.
    pub base: Option<MetaBase>,
    /// What its step ran in.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// What a step runs in, as far as a shell opened in its tree should have the same. Text that is no UTF-8 is kept
/// approximately.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Surroundings {
    /// Its working directory, as the spec has it.
    pub workdir: String,
    /// Its environment: names and values.
    pub env: Vec<(String, String)>,
    /// Its networks.
    pub network: Vec<String>,
    /// Its user, as `UID:GID` or a name, if the spec has one other than root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { workdir: "/".to_owned(), env: Vec::new(), network: Vec::new(), user: None }
    }
}

/// The image behind a base result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MetaBase {
    /// The name in the spec.
    pub name: String,
    /// See [`Fingerprint::stamp`].
    pub stamp: String,
    /// See [`Fingerprint::digest`].
    pub digest: String,
    /// Where it came from, in words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

impl MetaBase {
    /// The fingerprint the image had.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { stamp: self.stamp.clone(), digest: self.digest.clone() }
    }
}

impl Meta {
    /// Writes the file into a result's directory.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(FILE), serde_json::to_vec(self)?)
    }

    /// Reads it back; `None` when there is none or it makes no sense (another program's result).
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
    }
}
