//! Writes layers, and the configuration and manifest over them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

use super::Plan;
use super::changes::changes;
use super::listing::Listing;
use super::tar_writer::TarWriter;
use crate::digest::Digest;
use crate::error::{At, Error, Result};
use crate::manifest::{
    Config, Descriptor, History, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, RootFs,
    RunConfig,
};
use crate::platform::Platform;

/// Higher levels take much longer and gain little.
const LEVEL: u32 = 5;

/// A layer in a file.
pub(super) struct MadeLayer {
    pub(super) file: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
}

/// An image whose layers are files in a directory.
pub(super) struct Made {
    pub(super) layers: Vec<MadeLayer>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl Made {
    /// The configuration as a blob.
    pub(super) fn config_blob(&self) -> Descriptor {
        descriptor(OCI_CONFIG, &self.config)
    }

    /// The manifest as a blob.
    pub(super) fn manifest_blob(&self) -> Descriptor {
        descriptor(OCI_MANIFEST, &self.manifest)
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: None,
    }
}

/// Hashes and counts what goes through.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes all layers into `dir`, and what stands over them.
pub(super) fn image(plan: &Plan<'_>, dir: &Path, compress: bool) -> Result<Made> {
    let mut layers = Vec::new();
    let mut history = Vec::new();
    let first = if plan.squash { plan.steps.len().saturating_sub(1) } else { 0 };
    let mut before: Option<Listing> = None;
    for (number, step) in plan.steps[first..].iter().enumerate() {
        let now = Listing::read(&step.tree)?;
        let changes = changes(before.as_ref(), &now)?;
        let empty = changes.is_empty();
        if !empty {
            let file = dir.join(format!("layer-{number}"));
            layers.push(layer(plan, &now, &changes, file, compress)?);
        }
        let created_by = Some(step.heading.clone());
        history.push(History { created_by, empty_layer: empty.then_some(true) });
        before = Some(now);
    }
    let config = json(&config(plan, &layers, history))?;
    let blobs = layers.iter().map(|layer| Descriptor {
        media_type: OCI_LAYER_GZIP.to_owned(),
        digest: layer.digest.clone(),
        size: layer.size,
        platform: None,
        annotations: None,
    });
    let manifest = json(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: descriptor(OCI_CONFIG, &config),
        layers: blobs.collect(),
    })?;
    Ok(Made { layers, config, manifest })
}

fn config(plan: &Plan<'_>, layers: &[MadeLayer], history: Vec<History>) -> Config {
    let env = plan.env.iter().map(|(name, value)| format!("{name}={value}"));
    Config {
        platform: Platform::host(),
        // The time of its making would make another image of it each time.
        created: None,
        config: Some(RunConfig {
            env: Some(env.collect()),
            working_dir: Some(plan.workdir.clone()),
            user: plan.user.clone(),
        }),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        },
        history: Some(history),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::io("write the documents of an image", e.into()))
}

fn layer(
    plan: &Plan<'_>,
    tree: &Listing,
    changes: &[super::changes::Change<'_>],
    file: PathBuf,
    compress: bool,
) -> Result<MadeLayer> {
    let out = BufWriter::with_capacity(128 * 1024, File::create(&file).at("create", &file)?);
    let stored = Counted::new(out);
    let (diff_id, stored) = if compress {
        // No name and no time, so that the same bytes come of the same layer.
        let gzip = GzBuilder::new().write(stored, Compression::new(LEVEL));
        let (diff_id, gzip) = archive(plan, tree, changes, gzip)?;
        (diff_id, gzip.finish().at("write", &file)?)
    } else {
        archive(plan, tree, changes, stored)?
    };
    let Counted { inner, hash, size } = stored;
    inner.into_inner().map_err(|e| Error::path("write", &file, e.into_error()))?;
    Ok(MadeLayer { file, digest: Digest::finish(hash), size, diff_id })
}

/// Writes the archive of a layer to `out`; gives its digest too.
fn archive<W: Write>(
    plan: &Plan<'_>,
    tree: &Listing,
    changes: &[super::changes::Change<'_>],
    out: W,
) -> Result<(Digest, W)> {
    let mut tar = TarWriter::new(Counted::new(out), plan.owner);
    for change in changes {
        if plan.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        tar.change(tree, change, &|| plan.cancel.is_cancelled())?;
    }
    let Counted { inner, hash, .. } = tar.finish().map_err(|e| Error::io("write a layer", e))?;
    Ok((Digest::finish(hash), inner))
}

/// Writes the last tree of `plan` as one archive.
pub(super) fn flat<W: Write>(plan: &Plan<'_>, out: W) -> Result<W> {
    let last = plan.steps.last().map(|step| Listing::read(&step.tree)).transpose()?;
    let Some(tree) = last else { return Ok(out) };
    let changes = changes(None, &tree)?;
    archive(plan, &tree, &changes, out).map(|(_, out)| out)
}
