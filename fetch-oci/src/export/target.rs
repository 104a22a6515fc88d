//! Where images go: layouts, archives and registries.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::Plan;
use super::write::{self, Made};
use crate::cache::{Cache, STAGING};
use crate::digest::Digest;
use crate::error::{At, Error, Result};
use crate::manifest::{self, Index, LARGEST_MANIFEST, OCI_INDEX, REF_NAME};
use crate::name::{Reference, Target};
use crate::platform::Platform;
use crate::registry::{self, Access, Upload};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes images of a plan.
pub struct Exporter<'a> {
    /// What becomes an image.
    pub plan: Plan<'a>,
}

impl Exporter<'_> {
    /// Puts the image into the OCI layout at `path`, which is made if it is not there, in place of what has this tag.
    pub fn to_layout(&self, path: &Path, tag: &str) -> Result<Digest> {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        let staging = stage(path)?;
        let made = write::image(&self.plan, staging.path(), true)?;
        for layer in &made.layers {
            let to = blobs.join(layer.digest.hex());
            fs::rename(&layer.file, &to).at("write", &to)?;
        }
        let (config, mut top) = (made.config_blob(), made.manifest_blob());
        for (blob, bytes) in [(&config, &made.config), (&top, &made.manifest)] {
            replace(&blobs.join(blob.digest.hex()), bytes)?;
        }
        // Others may be putting other images there; those that were there must all stay.
        let _lock = lock(path)?;
        replace(&path.join("oci-layout"), LAYOUT)?;
        let digest = top.digest.clone();
        top.platform = Some(Platform::host());
        top.annotations = Some([(REF_NAME.to_owned(), tag.to_owned())].into());
        let index = path.join("index.json");
        let mut all = match fs::read(&index) {
            Ok(bytes) if bytes.len() as u64 > LARGEST_MANIFEST => {
                let (what, limit) = (format!("`{}`", index.display()), LARGEST_MANIFEST);
                return Err(Error::TooLarge { what, limit: format!("{limit} bytes") });
            }
            Ok(bytes) => manifest::read::<Index>("index", &bytes)?.manifests,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::path("read", &index, error)),
        };
        all.retain(|one| one.ref_name() != Some(tag));
        all.push(top);
        let media_type = Some(OCI_INDEX.to_owned());
        let new = Index { schema_version: 2, media_type, manifests: all };
        replace(&index, &json(&new)?)?;
        Ok(digest)
    }

    /// Writes an archive as `docker save` does, with the image under the name `tag` if there is one. Gives the digest of the
    /// configuration, by which Docker knows images.
    pub fn to_docker_archive(&self, path: &Path, tag: Option<&str>) -> Result<Digest> {
        let dir = parent(path);
        let staging = stage(dir)?;
        let made = write::image(&self.plan, staging.path(), false)?;
        let digest = Digest::of(&made.config);
        let new = tempfile::NamedTempFile::new_in(dir).at("write to", dir)?;
        let out = BufWriter::with_capacity(128 * 1024, new.as_file());
        docker_archive(&made, tag, out).at("write", path)?;
        readable(new.as_file()).at("write", path)?;
        new.persist(path).map_err(|e| Error::path("write", path, e.error))?;
        Ok(digest)
    }

    /// Writes the last tree as one archive, compressed if the name ends with `gz`.
    pub fn to_tar(&self, path: &Path) -> Result<()> {
        let dir = parent(path);
        let new = tempfile::NamedTempFile::new_in(dir).at("write to", dir)?;
        let out = BufWriter::with_capacity(128 * 1024, new.as_file());
        if path.extension().is_some_and(|end| end == "gz" || end == "tgz") {
            let gzip = GzBuilder::new().write(out, Compression::new(5));
            let out = write::flat(&self.plan, gzip)?.finish().at("write", path)?;
            out.into_inner().map_err(|e| Error::path("write", path, e.into_error()))?;
        } else {
            let out = write::flat(&self.plan, out)?;
            out.into_inner().map_err(|e| Error::path("write", path, e.into_error()))?;
        }
        readable(new.as_file()).at("write", path)?;
        new.persist(path).map(drop).map_err(|e| Error::path("write", path, e.error))
    }

    /// Copies the last tree to the directory `path`, which must not be there, with the environment in `PATH.env`.
    pub fn to_directory(&self, path: &Path) -> Result<()> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::path("write", path, io::ErrorKind::AlreadyExists.into()));
        }
        let Some(last) = self.plan.steps.last() else { return Ok(()) };
        let staging = stage(parent(path))?;
        let tree = staging.path().join("tree");
        let cancelled = || self.plan.cancel.is_cancelled();
        let options = tree_copy::Options { cancel: Some(&cancelled), ..Default::default() };
        tree_copy::copy_tree(&last.tree, &tree, &options).map_err(|error| match error {
            tree_copy::Error::Cancelled => Error::Cancelled,
            other => Error::path("copy", &last.tree, io::Error::other(other)),
        })?;
        let mut env = path.as_os_str().to_owned();
        env.push(".env");
        let mut lines = String::new();
        for (name, value) in &self.plan.env {
            if value.contains('\n') {
                let why =
                    "its value has several lines, which a file of lines cannot hold".to_owned();
                return Err(Error::BadName { text: name.clone(), why });
            }
            lines.push_str(&format!("{name}={value}\n"));
        }
        replace(Path::new(&env), lines.as_bytes())?;
        fs::rename(&tree, path).at("write", path)
    }

    /// Pushes the image to a registry, which gets the layers that it does not have. They stay in `cache` as if they had
    /// been pulled. `told` hears what is done.
    pub fn to_registry(
        &self,
        reference: &Reference,
        access: &Access,
        cache: &Cache,
        told: &dyn Fn(&str),
    ) -> Result<Digest> {
        let Target::Tag(tag) = &reference.target else {
            let (text, why) = (reference.to_string(), "an image is pushed by a tag".to_owned());
            return Err(Error::BadName { text, why });
        };
        fs::create_dir_all(cache.dir()).at("create", cache.dir())?;
        let staging = stage(cache.dir())?;
        let made = write::image(&self.plan, staging.path(), true)?;
        let config = staging.path().join("config");
        fs::write(&config, &made.config).at("write", &config)?;
        let layers = made.layers.iter();
        let mut uploads: Vec<_> = layers
            .map(|layer| Upload {
                file: layer.file.clone(),
                digest: layer.digest.clone(),
                size: layer.size,
            })
            .collect();
        let blob = made.config_blob();
        uploads.push(Upload { file: config, digest: blob.digest, size: blob.size });
        registry::push(access, reference, &uploads, (tag, &made.manifest), self.plan.cancel, told)?;
        for upload in &uploads {
            cache.adopt(&upload.file, &upload.digest)?;
        }
        Ok(made.manifest_blob().digest)
    }
}

/// Has the directory `path` for us alone while the returned file lives.
fn lock(path: &Path) -> Result<File> {
    let dir = File::open(path).at("open", path)?;
    rustix::fs::flock(&dir, FlockOperation::LockExclusive).at("lock", path)?;
    Ok(dir)
}

/// A directory for layers that are being made, on the filesystem where they go.
fn stage(dir: &Path) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(OsStr::from_bytes(STAGING))
        .tempdir_in(dir)
        .at("create a directory in", dir)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Gives a file that was made for its owner alone the mode of others.
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = parent(path);
    let mut new = tempfile::NamedTempFile::new_in(dir).at("write to", dir)?;
    new.write_all(bytes).and_then(|()| readable(new.as_file())).at("write", path)?;
    new.persist(path).map(drop).map_err(|e| Error::path("write", path, e.error))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::io("write the index of a layout", e.into()))
}

fn docker_archive(made: &Made, tag: Option<&str>, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut names = Vec::new();
    for layer in &made.layers {
        let name = format!("{}.tar", layer.diff_id.hex());
        if !names.contains(&name) {
            member(&mut tar, &name, layer.size, File::open(&layer.file)?)?;
        }
        names.push(name);
    }
    let config = format!("{}.json", Digest::of(&made.config).hex());
    member(&mut tar, &config, made.config.len() as u64, &made.config[..])?;
    let full =
        tag.map(|tag| if tag.contains(':') { tag.to_owned() } else { format!("{tag}:latest") });
    let tags: Vec<_> = full.into_iter().collect();
    let list =
        serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": names}]).to_string();
    member(&mut tar, "manifest.json", list.len() as u64, list.as_bytes())?;
    tar.into_inner()?.flush()
}

fn member(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    bytes: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, PathBuf::from(name), bytes)
}
