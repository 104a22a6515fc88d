//! Base images of all the places where there may be some.

use std::path::Path;

use obuilder_core::bstr::{BStr, BString};
use obuilder_core::contracts::{Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel, Fetcher};

use fetch_dir::DirFetcher;
use store_zfs::ZfsFetcher;

/// The store's own images, then directories.
pub(crate) struct Images {
    pool: Option<ZfsFetcher>,
    dirs: DirFetcher,
}

impl Images {
    /// Those in directories, and those of `pool`, which come first.
    pub(crate) fn new(pool: Option<ZfsFetcher>, dirs: DirFetcher) -> Self {
        Self { pool, dirs }
    }

    /// Asks the pool, and for what it does not know the directories.
    fn first<T>(
        &self,
        base: &BStr,
        ask: impl Fn(&dyn Fetcher) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        // The empty image is nobody's, and need not be asked for.
        let pool = self.pool.as_ref().filter(|_| base != "scratch");
        let Some(pool) = pool else { return ask(&self.dirs) };
        match ask(pool) {
            Err(FetchError::Unknown { known, hint, .. }) => ask(&self.dirs).map_err(|error| {
                let FetchError::Unknown { name, known: others, hint: other } = error else {
                    return error;
                };
                let known = known.into_iter().chain(others).collect();
                FetchError::Unknown { name, known, hint: format!("{other}; or {hint}") }
            }),
            asked => asked,
        }
    }
}

impl Fetcher for Images {
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> Result<Fingerprint, FetchError> {
        self.first(base, |images| images.fingerprint(base, last))
    }

    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        self.first(base, |images| images.environment(base))
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError> {
        self.first(base, |images| images.fetch(base, rootfs, log, cancel))
    }
}
