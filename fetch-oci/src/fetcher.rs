//! The fetcher: images from files and registries as base images.

use std::error::Error as StdError;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{self, Fetcher, Fingerprint};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};

use crate::cache::Cache;
use crate::digest::Checked;
use crate::error::{At, Error, Result};
use crate::image::{FileImage, Image, Layer, LayerAt, Layers};
use crate::layer::LayerBlob;
use crate::name::{ImageName, Reference};
use crate::platform::Platform;
use crate::registry::{Access, Pull, Pulled, Source};
use crate::unpack::{Options, Unpacked, Unpacker};

/// How images are brought.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which image of an index; `None` for this machine's, or Linux on its processor.
    pub platform: Option<Platform>,
    /// How they are unpacked.
    pub unpack: Options,
    /// How registries are reached.
    pub access: Access,
    /// When they are asked.
    pub pull: Pull,
    /// Where layers are kept.
    pub cache: Cache,
}

impl Settings {
    /// The usual ones, with a cache in this directory.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            platform: None,
            unpack: Options::default(),
            access: Access::default(),
            pull: Pull::default(),
            cache: Cache::new(cache),
        }
    }
}

/// Brings images from layouts, archives and registries.
#[derive(Debug, Clone)]
pub struct OciFetcher {
    settings: Settings,
    source: Source,
}

impl OciFetcher {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        let platforms = settings.platform.clone().map_or_else(Platform::usual, |one| vec![one]);
        let (access, cache) = (settings.access.clone(), settings.cache.clone());
        let source = Source { access, cache, pull: settings.pull, platforms };
        Self { settings, source }
    }

    /// Unpacks the archive at `path`, which is a tree and no layer, into the directory `rootfs`.
    pub fn import_tar(
        &self,
        path: &Path,
        rootfs: &Path,
        cancel: &Cancel,
    ) -> std::result::Result<contracts::Image, Error> {
        let file = fs::File::open(path).at("open", path)?;
        prepare(rootfs)?;
        let mut unpacker = Unpacker::new(rootfs, &self.settings.unpack, cancel)?.plain();
        let bytes = Box::new(file);
        let name = path.display().to_string();
        unpacker.layer(&name, LayerBlob { bytes, stored: None, diff_id: None })?;
        unpacker.finish()?;
        let fingerprint = Fingerprint { stamp: String::new(), digest: String::new() };
        Ok(contracts::Image { env: Vec::new(), fingerprint })
    }

    fn file(&self, name: &ImageName) -> Result<FileImage> {
        FileImage::open(name, &self.source.platforms, &self.settings.unpack)
    }

    fn name(base: &BStr) -> Result<ImageName> {
        let text = base.to_str().map_err(|_| Error::BadName {
            text: base.to_string(),
            why: "it is not UTF-8".to_owned(),
        })?;
        ImageName::parse(text)
    }

    fn fingerprint_of(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        cancel: &Cancel,
    ) -> Result<Fingerprint> {
        let name = Self::name(base)?;
        let (stamp, digest) = match &name {
            ImageName::Registry(reference) => {
                let ours = |last: &&Fingerprint| {
                    let mut words = last.stamp.splitn(3, ' ');
                    let (kind, _top, wanted) = (words.next(), words.next(), words.next());
                    kind == Some("registry") && wanted == Some(&*self.source.wanted())
                };
                // Nobody is asked for what is here.
                let asks = self.settings.pull == Pull::Always && !reference.is_fixed();
                if let Some(last) = last.filter(ours).filter(|_| !asks) {
                    return Ok(last.clone());
                }
                let pulled = self.source.resolve(reference, cancel)?;
                (self.registry_stamp(&pulled), pulled.image.digest)
            }
            file => {
                let stamp = self.stamp(file)?;
                if let Some(last) = last.filter(|last| last.stamp == stamp) {
                    return Ok(last.clone());
                }
                (stamp, self.file(file)?.image.digest)
            }
        };
        Ok(Fingerprint { stamp, digest: digest.to_string() })
    }

    fn registry_stamp(&self, pulled: &Pulled) -> String {
        format!("registry {} {}", pulled.top, self.source.wanted())
    }

    /// Changes whenever the file or layout may have changed.
    fn stamp(&self, name: &ImageName) -> Result<String> {
        let path = match name {
            ImageName::Layout { path, .. } if path.is_dir() => path.join("index.json"),
            ImageName::Layout { path, .. } | ImageName::DockerArchive { path, .. } => path.clone(),
            ImageName::Registry(_) => return Ok(String::new()),
        };
        let meta = fs::metadata(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let image = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let place = match path.parent() {
                    Some(place) if place != Path::new("") => format!("`{}`", place.display()),
                    _ => "the current directory".to_owned(),
                };
                Error::Missing { image, place }
            }
            _ => Error::path("read", &path, error),
        })?;
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Ok(format!("file {} {} {times:?} {}", meta.ino(), meta.len(), self.source.wanted()))
    }

    fn bring(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<contracts::Image> {
        let name = Self::name(base)?;
        prepare(rootfs)?;
        match &name {
            ImageName::Registry(reference) => self.bring_pulled(reference, rootfs, log, cancel),
            file => self.bring_file(file, rootfs, log, cancel),
        }
    }

    fn bring_file(
        &self,
        name: &ImageName,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<contracts::Image> {
        let stamp = self.stamp(name)?;
        let file = self.file(name)?;
        say(log, &format!("Importing image {} from {}", file.image.digest.short(), file.place()))?;
        let (count, options) = (file.image.layers.len(), &self.settings.unpack);
        let done = file.image.unpack(&file, rootfs, options, cancel, &mut |number, layer| {
            unpacking(log, number, count, layer)
        })?;
        tell(&done, log)?;
        Ok(brought(&file.image, stamp))
    }

    fn bring_pulled(
        &self,
        reference: &Reference,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<contracts::Image> {
        let pulled = self.source.resolve(reference, cancel)?;
        let (image, options) = (&pulled.image, &self.settings.unpack);
        if image.stored() > options.most_stored() {
            let limit = format!("{} bytes", options.most_bytes);
            return Err(Error::TooLarge { what: format!("{reference}, compressed,"), limit });
        }
        say(log, &format!("Pulling {reference}: image {}", image.digest.short()))?;
        let incoming = self.source.layers(reference, image, cancel)?;
        let (total, count) = (megabytes(incoming.total()), image.layers.len());
        if incoming.total() > 0 {
            say(log, &format!("{total} of {count} layers have to come"))?;
        }
        let unpacked = image.unpack(&incoming, rootfs, options, cancel, &mut |number, layer| {
            incoming.wait_for(&layer.at, &mut |received| {
                say(log, &format!("Received {} of {total}", megabytes(received)))
            })?;
            unpacking(log, number, count, layer)
        });
        // A layer that is damaged may as well look like a bad archive.
        if matches!(&unpacked, Err(Error::Damaged { .. } | Error::BadLayer { .. })) {
            self.forget_damaged(image, cancel)?;
        }
        tell(&unpacked?, log)?;
        Ok(brought(image, self.registry_stamp(&pulled)))
    }

    /// Removes the layers that have been damaged since they came, so that the next try brings them again.
    fn forget_damaged(&self, image: &Image, cancel: &Cancel) -> Result<()> {
        for layer in &image.layers {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let LayerAt::Blob(blob) = &layer.at else { continue };
            let Some(file) = self.settings.cache.open(&blob.digest, blob.size)? else { continue };
            let mut checked = Checked::new(file, &blob.digest, blob.size);
            if std::io::copy(&mut checked, &mut std::io::sink()).is_err() {
                self.settings.cache.forget(&blob.digest)?;
            }
        }
        Ok(())
    }

    fn env(&self, base: &BStr) -> Result<Vec<(BString, BString)>> {
        match Self::name(base)? {
            ImageName::Registry(reference) => {
                let pulled = self.source.resolve(&reference, &Cancel::new())?;
                Ok(pulled.image.config.env())
            }
            file => Ok(self.file(&file)?.image.config.env()),
        }
    }
}

/// Empties `rootfs`, for an earlier try may have left something there.
pub(crate) fn prepare(rootfs: &Path) -> Result<()> {
    tree_copy::remove_tree(rootfs).map_err(|error| Error::Io {
        action: format!("empty `{}`", rootfs.display()),
        source: std::io::Error::other(error),
    })?;
    let create = || {
        fs::create_dir(rootfs)?;
        fs::set_permissions(rootfs, Permissions::from_mode(0o755))
    };
    create().at("create", rootfs)
}

fn brought(image: &Image, stamp: String) -> contracts::Image {
    let fingerprint = Fingerprint { stamp, digest: image.digest.to_string() };
    contracts::Image { env: image.config.env(), fingerprint }
}

fn unpacking(log: &BuildLog, number: usize, count: usize, layer: &Layer) -> Result<()> {
    let digest = layer.digest().short();
    say(log, &format!("Unpacking layer {} of {count} ({digest})", number + 1))
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

impl Fetcher for OciFetcher {
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> std::result::Result<Fingerprint, FetchError> {
        self.look(base, last, &Cancel::new())
    }

    fn look(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        cancel: &Cancel,
    ) -> std::result::Result<Fingerprint, FetchError> {
        self.fingerprint_of(base, last, cancel).map_err(|error| failed(base, error))
    }

    fn insists(&self, base: &BStr) -> bool {
        let moves = || match Self::name(base) {
            Ok(ImageName::Registry(reference)) => !reference.is_fixed(),
            _ => false,
        };
        self.settings.pull == Pull::Always && moves()
    }

    fn environment(&self, base: &BStr) -> std::result::Result<Vec<(BString, BString)>, FetchError> {
        self.env(base).map_err(|error| failed(base, error))
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> std::result::Result<contracts::Image, FetchError> {
        self.bring(base, rootfs, log, cancel).map_err(|error| failed(base, error))
    }

    fn origin(&self, base: &BStr) -> Option<String> {
        Some(match Self::name(base).ok()? {
            ImageName::Layout { path, .. } => format!("the OCI layout `{}`", path.display()),
            ImageName::DockerArchive { path, .. } => format!("the archive `{}`", path.display()),
            ImageName::Registry(reference) => format!("the registry image {reference}"),
        })
    }
}

/// Says what could not be kept.
pub(crate) fn tell(done: &Unpacked, log: &BuildLog) -> Result<()> {
    for path in &done.left_out {
        say(log, &format!("Left out `{}`: it is a device or a FIFO", path.display()))?;
    }
    if let more @ 1.. = done.more_left_out {
        say(log, &format!("Left out {more} more of them"))?;
    }
    if done.lost_attributes > 0 {
        say(log, &format!("Left out {} extended attributes", done.lost_attributes))?;
    }
    Ok(())
}

pub(crate) fn say(log: &BuildLog, line: &str) -> Result<()> {
    log.write(format!("{line}\n").as_bytes())
        .map_err(|e| Error::Io { action: "write the log".to_owned(), source: e })
}

pub(crate) fn failed(base: &BStr, error: Error) -> FetchError {
    match error {
        Error::Cancelled => FetchError::Cancelled(base.to_owned()),
        Error::Missing { image, place } => FetchError::Unknown {
            name: base.to_owned(),
            known: Vec::new(),
            hint: format!("there is no image `{image}` in {place}"),
        },
        Error::NotHere(image) => FetchError::Unknown {
            name: base.to_owned(),
            known: Vec::new(),
            hint: format!(
                "`{image}` is not here, and registries are not to be asked; --pull missing asks them"
            ),
        },
        error => {
            let source: Box<dyn StdError + Send + Sync> = Box::new(error);
            FetchError::Failed { action: format!("bring the image `{base}`"), source }
        }
    }
}
