//! The fetcher: images from files and registries as base images.

use std::error::Error as StdError;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{self, Fetcher, Fingerprint};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};

use crate::error::{At, Error, Result};
use crate::image::{FileImage, Image, Layers};
use crate::name::ImageName;
use crate::platform::Platform;
use crate::unpack::{Options, Unpacked};

/// How many of the files that were left out are named in the log.
const MOST_NAMED: usize = 20;

/// How images are brought.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which image of an index; `None` for this machine's, or Linux on its processor.
    pub platform: Option<Platform>,
    /// How they are unpacked.
    pub unpack: Options,
}

/// Brings images from layouts, archives and registries.
#[derive(Debug, Clone)]
pub struct OciFetcher {
    settings: Settings,
}

impl OciFetcher {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    fn platforms(&self) -> Vec<Platform> {
        self.settings.platform.clone().map_or_else(Platform::usual, |one| vec![one])
    }

    fn file(&self, name: &ImageName) -> Result<FileImage> {
        FileImage::open(name, &self.platforms(), &self.settings.unpack)
    }

    fn name(base: &BStr) -> Result<ImageName> {
        let text = base.to_str().map_err(|_| Error::BadName {
            text: base.to_string(),
            why: "it is not UTF-8".to_owned(),
        })?;
        ImageName::parse(text)
    }

    fn fingerprint_of(&self, base: &BStr, last: Option<&Fingerprint>) -> Result<Fingerprint> {
        let name = Self::name(base)?;
        let stamp = self.stamp(&name)?;
        if let Some(last) = last.filter(|last| last.stamp == stamp) {
            return Ok(last.clone());
        }
        let digest = self.file(&name)?.image.digest.to_string();
        Ok(Fingerprint { stamp, digest })
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
                let place = path.parent().unwrap_or(&path).display().to_string();
                Error::Missing { image, place: format!("`{place}`") }
            }
            _ => Error::path("read", &path, error),
        })?;
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let wanted = self.platforms().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        Ok(format!("file {} {} {times:?} {wanted}", meta.ino(), meta.len()))
    }

    fn unpack(
        &self,
        image: &Image,
        source: &dyn Layers,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<()> {
        // What an earlier try left.
        tree_copy::remove_tree(rootfs).map_err(|error| Error::Io {
            action: format!("empty `{}`", rootfs.display()),
            source: std::io::Error::other(error),
        })?;
        let create = || {
            fs::create_dir(rootfs)
                .and_then(|()| fs::set_permissions(rootfs, Permissions::from_mode(0o755)))
        };
        create().at("create", rootfs)?;
        let count = image.layers.len();
        let options = &self.settings.unpack;
        let done = image.unpack(source, rootfs, options, cancel, &mut |number, layer| {
            say(
                log,
                &format!("Unpacking layer {} of {count} ({})", number + 1, layer.digest().short()),
            )
        })?;
        tell(&done, log)
    }

    fn bring(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<contracts::Image> {
        let name = Self::name(base)?;
        let stamp = self.stamp(&name)?;
        let file = self.file(&name)?;
        say(log, &format!("Importing image {} from {}", file.image.digest.short(), file.place()))?;
        self.unpack(&file.image, &file, rootfs, log, cancel)?;
        let env = file.image.config.env();
        let fingerprint = Fingerprint { stamp, digest: file.image.digest.to_string() };
        Ok(contracts::Image { env, fingerprint })
    }
}

impl Fetcher for OciFetcher {
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> std::result::Result<Fingerprint, FetchError> {
        self.fingerprint_of(base, last).map_err(|error| failed(base, error))
    }

    fn environment(&self, base: &BStr) -> std::result::Result<Vec<(BString, BString)>, FetchError> {
        let name = Self::name(base).and_then(|name| self.file(&name));
        name.map(|file| file.image.config.env()).map_err(|error| failed(base, error))
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
}

/// Says what could not be kept.
fn tell(done: &Unpacked, log: &BuildLog) -> Result<()> {
    for path in done.left_out.iter().take(MOST_NAMED) {
        say(log, &format!("Left out `{}`: it is a device or a FIFO", path.display()))?;
    }
    if let Some(more @ 1..) = done.left_out.len().checked_sub(MOST_NAMED) {
        say(log, &format!("Left out {more} more of them"))?;
    }
    if done.lost_attributes > 0 {
        say(log, &format!("Left out {} extended attributes", done.lost_attributes))?;
    }
    Ok(())
}

fn say(log: &BuildLog, line: &str) -> Result<()> {
    log.write(format!("{line}\n").as_bytes())
        .map_err(|e| Error::Io { action: "write the log".to_owned(), source: e })
}

fn failed(base: &BStr, error: Error) -> FetchError {
    match error {
        Error::Cancelled => FetchError::Cancelled(base.to_owned()),
        Error::Missing { image, place } => FetchError::Unknown {
            name: base.to_owned(),
            known: Vec::new(),
            hint: format!("there is no image `{image}` in {place}"),
        },
        error => {
            let source: Box<dyn StdError + Send + Sync> = Box::new(error);
            FetchError::Failed { action: format!("bring the image `{base}`"), source }
        }
    }
}
