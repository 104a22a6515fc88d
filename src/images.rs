//! Where `(from NAME)` leads: `scratch`, a directory of images, a layout or archive, a registry, in this order.

use std::path::Path;

use fetch_dir::DirFetcher;
use fetch_oci::{DockerFetcher, ImageName, OciFetcher, Reference};
use obuilder_core::bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel, Fetcher};

/// All fetchers as one.
pub(crate) struct Images {
    pub(crate) dirs: DirFetcher,
    pub(crate) oci: OciFetcher,
    /// Brings what is in registries instead of `oci`.
    pub(crate) docker: Option<DockerFetcher>,
}

impl Images {
    /// The one that `base` is for.
    fn of(&self, base: &BStr) -> &dyn Fetcher {
        if ImageName::is_file(base) {
            return &self.oci;
        }
        if self.dirs.claims(base) || !self.is_reference(base) {
            return &self.dirs;
        }
        match &self.docker {
            Some(docker) => docker,
            None => &self.oci,
        }
    }

    fn is_reference(&self, base: &BStr) -> bool {
        base.to_str().is_ok_and(|text| Reference::parse(text).is_ok())
    }

    /// Whoever wrote a name without a registry may have meant a directory: says what there is.
    fn explained(&self, base: &BStr, error: FetchError) -> FetchError {
        if ImageName::is_file(base) || base.contains(&b'/') || self.dirs.claims(base) {
            return error;
        }
        let elsewhere = match &error {
            FetchError::Unknown { hint, .. } => hint.clone(),
            FetchError::Failed { source, .. } => match source.downcast_ref() {
                Some(fetch_oci::Error::Denied { .. }) => {
                    format!("{source}, which may mean that there is none of this name")
                }
                Some(fetch_oci::Error::Unreachable { .. }) => return self.unreachable(base, error),
                _ => return error,
            },
            FetchError::Cancelled(_) => return error,
        };
        match self.dirs.environment(base) {
            Err(FetchError::Unknown { name, known, hint }) => {
                let hint = format!("{hint}\n{elsewhere}");
                FetchError::Unknown { name, known, hint }
            }
            _ => error,
        }
    }

    /// The same where nobody answers: the network's fault, and perhaps a slip in the name of a directory.
    fn unreachable(&self, base: &BStr, error: FetchError) -> FetchError {
        match (self.dirs.environment(base), error) {
            (Err(FetchError::Unknown { hint, .. }), FetchError::Failed { source, .. }) => {
                let action =
                    format!("bring the image `{base}`, which no directory of images has ({hint})");
                FetchError::Failed { action, source }
            }
            (_, error) => error,
        }
    }
}

impl Fetcher for Images {
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> Result<Fingerprint, FetchError> {
        let found = self.of(base).fingerprint(base, last);
        found.map_err(|error| self.explained(base, error))
    }

    fn look(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        cancel: &Cancel,
    ) -> Result<Fingerprint, FetchError> {
        let found = self.of(base).look(base, last, cancel);
        found.map_err(|error| self.explained(base, error))
    }

    fn insists(&self, base: &BStr) -> bool {
        self.of(base).insists(base)
    }

    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        self.of(base).environment(base).map_err(|error| self.explained(base, error))
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError> {
        let brought = self.of(base).fetch(base, rootfs, log, cancel);
        brought.map_err(|error| self.explained(base, error))
    }

    fn origin(&self, base: &BStr) -> Option<String> {
        self.of(base).origin(base)
    }
}
