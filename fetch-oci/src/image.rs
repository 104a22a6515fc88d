//! An image whose manifest and configuration are known: what it is, and where its layers are.

use std::io::Read;
use std::path::Path;

use obuilder_core::Cancel;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::layer::LayerBlob;
use crate::manifest::{
    self, Config, Descriptor, Document, Index, LARGEST_CONFIG, LARGEST_MANIFEST, Manifest,
};
use crate::name::ImageName;
use crate::platform::{self, Platform, choose};
use crate::unpack::{Options, Unpacked, Unpacker};

/// Indexes in indexes are no deeper than this.
const DEEPEST_INDEX: usize = 4;

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) at: LayerAt,
    pub(crate) diff_id: Digest,
}

/// Where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayerAt {
    Blob(Descriptor),
    /// A member of an archive, which has no digest of its own.
    Member(String),
}

impl Layer {
    /// By which it is known to people: that of its bytes as they are stored, if it has one.
    pub(crate) fn digest(&self) -> &Digest {
        match &self.at {
            LayerAt::Blob(blob) => &blob.digest,
            LayerAt::Member(_) => &self.diff_id,
        }
    }
}

/// An image whose manifest and configuration are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Of the manifest for this platform, or of the configuration where there is no manifest.
    pub digest: Digest,
    /// Its configuration.
    pub config: Config,
    pub(crate) layers: Vec<Layer>,
}

/// Gives the bytes of layers.
pub(crate) trait Layers {
    /// Where they are, for messages.
    fn place(&self) -> String;

    /// Opens one.
    fn open(&self, layer: &LayerAt) -> Result<Box<dyn Read + Send + '_>>;
}

impl Image {
    /// Of a manifest and its configuration.
    pub(crate) fn new(digest: Digest, manifest: &Manifest, config: &[u8]) -> Result<Self> {
        manifest.config.digest.check(config, "the configuration of the image")?;
        let config = Config::parse(config, manifest.layers.len())?;
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let layers = layers
            .map(|(layer, id)| Layer { at: LayerAt::Blob(layer.clone()), diff_id: id.clone() });
        let layers = layers.collect();
        Ok(Self { digest, config, layers })
    }

    /// Bytes of all layers as they are stored, so far as that is known.
    pub(crate) fn stored(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| match &layer.at {
            LayerAt::Blob(blob) => blob.size,
            LayerAt::Member(_) => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Unpacks all layers into the empty directory `rootfs`; `told` hears of each layer before it is unpacked.
    pub(crate) fn unpack(
        &self,
        source: &dyn Layers,
        rootfs: &Path,
        options: &Options,
        cancel: &Cancel,
        told: &mut dyn FnMut(usize, &Layer) -> Result<()>,
    ) -> Result<Unpacked> {
        let mut unpacker = Unpacker::new(rootfs, options, cancel)?;
        for (number, layer) in self.layers.iter().enumerate() {
            told(number, layer)?;
            let bytes = source.open(&layer.at)?;
            let stored = match &layer.at {
                LayerAt::Blob(blob) => Some((blob.digest.clone(), blob.size)),
                LayerAt::Member(_) => None,
            };
            let blob = LayerBlob { bytes, stored, diff_id: Some(layer.diff_id.clone()) };
            unpacker.layer(layer.digest().short(), blob)?;
        }
        unpacker.finish()
    }
}

/// An image in files.
pub(crate) struct FileImage {
    files: Files,
    pub(crate) image: Image,
}

impl FileImage {
    /// Opens the layout or archive that `name` names, which is not one of a registry.
    pub(crate) fn open(
        name: &ImageName,
        platforms: &[Platform],
        options: &Options,
    ) -> Result<Self> {
        let (path, tag) = match name {
            ImageName::Layout { path, tag } | ImageName::DockerArchive { path, tag } => {
                (path, tag.as_deref())
            }
            ImageName::Registry(reference) => {
                let (image, place) = (reference.to_string(), "any file".to_owned());
                return Err(Error::Missing { image, place });
            }
        };
        let files = Files::open(path, options.most_bytes)?;
        let image = match name {
            ImageName::Layout { .. } => layout_image(&files, tag, platforms)?,
            _ => {
                let image = docker_image(&files, tag)?;
                platform::check(&image.config.platform, platforms)?;
                image
            }
        };
        Ok(Self { files, image })
    }
}

impl Layers for FileImage {
    fn place(&self) -> String {
        self.files.place()
    }

    fn open(&self, layer: &LayerAt) -> Result<Box<dyn Read + Send + '_>> {
        let (file, digest) = match layer {
            LayerAt::Blob(blob) => (self.files.get(&blob_path(&blob.digest))?, Some(&blob.digest)),
            LayerAt::Member(name) => (self.files.get(name)?, None),
        };
        match (file, digest) {
            (Some((file, _)), _) => Ok(file),
            (None, Some(digest)) => {
                Err(Error::NoBlob { place: self.files.place(), digest: digest.clone() })
            }
            (None, None) => {
                let why = format!("{} lacks a layer that it names", self.files.place());
                Err(Error::BadDocument { what: "manifest", why })
            }
        }
    }
}

/// Where a layout keeps a blob.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The blob of a layout, checked.
fn blob(files: &Files, digest: &Digest, most: u64, what: &str) -> Result<Vec<u8>> {
    let bytes = files.read(&blob_path(digest), most)?;
    let missing = || Error::NoBlob { place: files.place(), digest: digest.clone() };
    let bytes = bytes.ok_or_else(missing)?;
    digest.check(&bytes, what)?;
    Ok(bytes)
}

fn layout_image(files: &Files, tag: Option<&str>, platforms: &[Platform]) -> Result<Image> {
    let bytes = files.read("index.json", LARGEST_MANIFEST)?;
    let missing =
        || Error::Missing { image: tag.unwrap_or("index.json").to_owned(), place: files.place() };
    let mut index: Index = manifest::read("index", &bytes.ok_or_else(missing)?)?;
    index.manifests = tagged(files, index.manifests, tag)?;
    for _ in 0..DEEPEST_INDEX {
        let all: Vec<_> = index.manifests.iter().collect();
        let chosen = choose(&all, platforms)?;
        let what = "the manifest of the image";
        match Document::parse(&blob(files, &chosen.digest, LARGEST_MANIFEST, what)?)? {
            Document::Manifest(manifest) => {
                let config = &manifest.config.digest;
                let config = blob(files, config, LARGEST_CONFIG, "the configuration of the image")?;
                let image = Image::new(chosen.digest.clone(), &manifest, &config)?;
                if chosen.platform.is_none() {
                    platform::check(&image.config.platform, platforms)?;
                }
                return Ok(image);
            }
            Document::Index(inner) => index = inner,
        }
    }
    let why = "its indexes name each other without end".to_owned();
    Err(Error::BadDocument { what: "index", why })
}

/// Those with this tag; without one, all of them, which must not have several.
fn tagged(files: &Files, all: Vec<Descriptor>, tag: Option<&str>) -> Result<Vec<Descriptor>> {
    let mut tags: Vec<_> = all.iter().filter_map(|one| one.ref_name()).collect();
    tags.dedup();
    let listed = tags.join(", ");
    let several = tags.len() > 1;
    let place = || format!("{}, only {listed}", files.place());
    match tag {
        Some(tag) => {
            let (found, others): (Vec<_>, Vec<_>) =
                all.clone().into_iter().partition(|one| one.ref_name() == Some(tag));
            if found.is_empty() {
                let place = if others.is_empty() { files.place() } else { place() };
                return Err(Error::Missing { image: tag.to_owned(), place });
            }
            Ok(found)
        }
        None if several => {
            let why = format!("it has several images; name one of {listed}");
            Err(Error::BadDocument { what: "index", why })
        }
        None => Ok(all),
    }
}

/// One image of a Docker archive's `manifest.json`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_image(files: &Files, tag: Option<&str>) -> Result<Image> {
    let bytes = files.read("manifest.json", LARGEST_MANIFEST)?;
    let missing = |image: &str| Error::Missing { image: image.to_owned(), place: files.place() };
    let bytes = bytes.ok_or_else(|| missing(tag.unwrap_or("manifest.json")))?;
    let all: Vec<Saved> = manifest::read("manifest", &bytes)?;
    let has = |saved: &&Saved, tag: &str| {
        saved.repo_tags.iter().flatten().any(|there| same_tag(there, tag))
    };
    let saved = match tag {
        Some(tag) => all.iter().find(|saved| has(saved, tag)).ok_or_else(|| missing(tag))?,
        None => match all.as_slice() {
            [one] => one,
            [] => return Err(missing("manifest.json")),
            _ => {
                let tags: Vec<_> =
                    all.iter().flat_map(|one| one.repo_tags.iter().flatten()).collect();
                let tags = tags.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let why = format!("it has several images; name one of {tags}");
                return Err(Error::BadDocument { what: "manifest", why });
            }
        },
    };
    let config =
        files.read(&saved.config, LARGEST_CONFIG)?.ok_or_else(|| missing(&saved.config))?;
    let digest = Digest::of(&config);
    let config = Config::parse(&config, saved.layers.len())?;
    let layers = saved.layers.iter().zip(&config.rootfs.diff_ids);
    let layers =
        layers.map(|(name, id)| Layer { at: LayerAt::Member(name.clone()), diff_id: id.clone() });
    let layers = layers.collect();
    Ok(Image { digest, config, layers })
}

/// Whether two names mean the same image of an archive, one of which may leave out what is usual.
fn same_tag(a: &str, b: &str) -> bool {
    let full = |text: &str| crate::name::Reference::parse(text).map(|r| r.to_string()).ok();
    a == b || full(a).is_some() && full(a) == full(b)
}
