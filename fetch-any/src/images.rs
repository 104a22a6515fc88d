//! All fetchers as one.

use std::path::Path;

use fetch_dir::DirFetcher;
use fetch_oci::{DockerFetcher, ImageName, OciFetcher, Reference};
use obuilder_core::bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel, Fetcher};
use store_zfs::ZfsFetcher;

/// Brings an image by the fetcher that its name is for. Who has written a name without a registry may have meant a directory, so
/// when it is found nowhere the error tells of both.
pub struct Images {
    /// For those in the store's pool, if it can have any.
    pub pool: Option<ZfsFetcher>,
    /// For `scratch` and directories of images.
    pub dirs: DirFetcher,
    /// For layouts, archives and registries.
    pub oci: OciFetcher,
    /// Brings what is in registries instead of `oci`.
    pub docker: Option<DockerFetcher>,
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

impl Images {
    /// Asks the pool, and for what it does not know whoever else it is for.
    fn first<T>(
        &self,
        base: &BStr,
        ask: impl Fn(&dyn Fetcher) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let others = || ask(self.of(base)).map_err(|error| self.explained(base, error));
        // The empty image is nobody's, and need not be asked for.
        let pool = self.pool.as_ref().filter(|_| base != "scratch");
        let Some(pool) = pool else { return others() };
        match ask(pool) {
            Err(FetchError::Unknown { known, hint, .. }) => others().map_err(|error| {
                let FetchError::Unknown { name, known: more, hint: other } = error else {
                    return error;
                };
                let known = known.into_iter().chain(more).collect();
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

    fn look(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        cancel: &Cancel,
    ) -> Result<Fingerprint, FetchError> {
        self.first(base, |images| images.look(base, last, cancel))
    }

    fn insists(&self, base: &BStr) -> bool {
        self.of(base).insists(base)
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

    fn origin(&self, base: &BStr) -> Option<String> {
        // A name without a slash may be the pool's, which is not asked for this.
        let others = self.pool.is_none() || base.contains(&b'/');
        others.then(|| self.of(base).origin(base)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use fetch_dir::ImageDir;
    use fetch_oci::{Pull, Settings};

    use super::*;

    fn images(dir: &Path, docker: bool) -> Images {
        let asked = Settings { pull: Pull::Never, ..Settings::new(dir.join("layers")) };
        let docker = docker.then(|| DockerFetcher {
            program: "docker".into(),
            pull: Pull::Never,
            platform: None,
            unpack: fetch_oci::Options::default(),
        });
        let images = ImageDir { path: dir.join("images"), declared_only: false };
        let (dirs, oci) = (DirFetcher::new(vec![images]), OciFetcher::new(asked));
        Images { pool: None, dirs, oci, docker }
    }

    #[test]
    fn a_name_leads_to_one_fetcher() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("images/busybox")).unwrap();
        let check = |name: &str, docker: bool, expected: &str| {
            let origin = images(dir.path(), docker).origin(name.into()).unwrap_or_default();
            assert!(origin.starts_with(expected), "{name}: {origin}");
        };
        for docker in [false, true] {
            check("scratch", docker, "the empty tree");
            check("busybox", docker, "the directory `");
            check("oci:/there", docker, "the OCI layout `/there`");
            check("docker-archive:/there.tar", docker, "the archive `/there.tar`");
        }
        check("debian", false, "the registry image ");
        check("debian", true, "the image `debian` of docker");
        check("No Reference!", false, "");
    }

    #[test]
    fn what_is_nowhere_is_said_to_be_in_no_directory_either() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("images/busybox")).unwrap();
        let error = images(dir.path(), false).fingerprint("busybax".into(), None).unwrap_err();
        let FetchError::Unknown { known, hint, .. } = error else { panic!("{error}") };
        assert_eq!(known, ["busybox", "scratch"]);
        assert!(hint.contains("busybox") && hint.contains("--pull"), "{hint}");
    }
}
