//! The fetcher itself.

use std::path::Path;

use bstr::{BStr, BString};
use obuilder_core::contracts::{Fetcher, Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};

use crate::directory::Directory;
use crate::image::{self, ImageDir, Source};

/// Brings images from directories.
///
/// `(from NAME)` is `DIR/NAME` of the first directory that has it; its environment are the lines of `DIR/NAME.env`, if there
/// is such a file. A name with a `/` or with a dot at its beginning is never one of ours. `(from scratch)` is an empty tree.
#[derive(Debug, Clone)]
pub struct DirFetcher {
    dirs: Vec<ImageDir>,
}

impl DirFetcher {
    /// Looks for images in `dirs`, in this order. They need not exist.
    pub fn new(dirs: impl IntoIterator<Item = impl Into<ImageDir>>) -> Self {
        Self { dirs: dirs.into_iter().map(Into::into).collect() }
    }

    /// Names of all images there are, sorted.
    pub fn known(&self) -> Vec<String> {
        image::known(&self.dirs)
    }

    /// Whether `base` is for this fetcher to bring or to refuse: `scratch`, and every name that a directory has.
    pub fn claims(&self, base: &BStr) -> bool {
        image::claims(&self.dirs, base)
    }

    /// The directory behind `base`; `None` for the empty tree.
    fn find(&self, base: &BStr) -> Result<Option<Directory>, FetchError> {
        Ok(match image::find(&self.dirs, base)? {
            Source::Scratch => None,
            Source::Directory { tree, env } => Some(Directory { name: base.to_owned(), tree, env }),
        })
    }
}

/// The empty tree never changes.
fn scratch() -> Fingerprint {
    Fingerprint { stamp: image::SCRATCH.to_owned(), digest: image::SCRATCH.to_owned() }
}

impl Fetcher for DirFetcher {
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> Result<Fingerprint, FetchError> {
        match self.find(base)? {
            None => Ok(scratch()),
            Some(directory) => directory.fingerprint(last),
        }
    }

    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        match self.find(base)? {
            None => Ok(Vec::new()),
            Some(directory) => directory.environment(),
        }
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError> {
        match self.find(base)? {
            None => Ok(Image { env: Vec::new(), fingerprint: scratch() }),
            Some(directory) => directory.import(rootfs, log, cancel),
        }
    }

    fn origin(&self, base: &BStr) -> Option<String> {
        Some(match self.find(base).ok()? {
            None => "the empty tree".to_owned(),
            Some(directory) => format!("the directory `{}`", directory.tree.display()),
        })
    }
}
