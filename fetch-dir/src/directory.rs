//! An image that is a directory.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bstr::BString;
use obuilder_core::contracts::{Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};
use sha2::{Digest, Sha256};
use tree_copy::{How, Options, copy_tree, digest_tree, remove_devices, remove_tree, stamp_tree};

use crate::env_file;

/// How often an image that changes while it is read is read again.
const TRIES: usize = 3;

type Stop<'a> = Option<&'a (dyn Fn() -> bool + Sync)>;

/// A directory and the file with its environment.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) name: BString,
    pub(crate) tree: PathBuf,
    pub(crate) env: PathBuf,
}

impl Directory {
    /// What the directory holds now, without reading it if it is as it was at `last`.
    pub(crate) fn fingerprint(
        &self,
        last: Option<&Fingerprint>,
    ) -> Result<Fingerprint, FetchError> {
        self.unchanged(None, |stamp| match last.filter(|last| last.stamp == stamp) {
            Some(last) => Ok(last.digest.clone()),
            None => self.digest(None),
        })
        .map(|(stamp, digest)| Fingerprint { stamp, digest })
    }

    pub(crate) fn environment(&self) -> Result<Vec<(BString, BString)>, FetchError> {
        let text = self.env_text()?.unwrap_or_default();
        env_file::parse(&self.env, &text)
            .map_err(|e| failed(format!("read the environment of image `{}`", self.name), e))
    }

    /// Copies the directory to `rootfs`, which is empty.
    pub(crate) fn import(
        &self,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError> {
        let line = format!("Importing image `{}` from `{}`\n", self.name, self.tree.display());
        write(log, &line)?;
        let stop = || cancel.is_cancelled();
        let (stamp, (env, digest)) = self.unchanged(Some(&stop), |_| {
            let env = self.environment()?;
            self.copy(rootfs, log, &stop)?;
            Ok((env, self.digest(Some(&stop))?))
        })?;
        Ok(Image { env, fingerprint: Fingerprint { stamp, digest } })
    }

    /// Calls `read` until the image has the same stamp before and after; gives that stamp too.
    fn unchanged<T>(
        &self,
        stop: Stop<'_>,
        mut read: impl FnMut(&str) -> Result<T, FetchError>,
    ) -> Result<(String, T), FetchError> {
        let mut before = self.stamp(stop)?;
        for _ in 0..TRIES {
            let outcome = read(&before);
            let after = self.stamp(stop)?;
            if after == before {
                return outcome.map(|outcome| (after, outcome));
            }
            before = after;
        }
        let action = format!("read image `{}`", self.name);
        Err(failed(action, "it does not stop changing while it is read"))
    }

    fn copy(
        &self,
        rootfs: &Path,
        log: &BuildLog,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), FetchError> {
        // What an earlier try left. The directory itself may be a volume of its own.
        for entry in rootfs.read_dir().into_iter().flatten().flatten() {
            remove_tree(&entry.path())
                .map_err(|e| failed(format!("empty `{}`", rootfs.display()), e))?;
        }
        let options = Options { how: How::TryReflink, cancel: Some(stop), ..Options::default() };
        let copied = copy_tree(&self.tree, rootfs, &options).map_err(|e| self.tree_failed(e))?;
        for path in copied.skipped {
            write(log, &format!("Left out `{}`: it cannot be copied\n", path.display()))?;
        }
        let devices = remove_devices(rootfs)
            .map_err(|e| failed(format!("look for devices in `{}`", rootfs.display()), e))?;
        for path in devices {
            let path = self.tree.join(path);
            write(log, &format!("Left out `{}`: it is a device\n", path.display()))?;
        }
        Ok(())
    }

    fn stamp(&self, stop: Stop<'_>) -> Result<String, FetchError> {
        let tree = stamp_tree(&self.tree, stop).map_err(|e| self.tree_failed(e))?;
        let env = match fs::metadata(&self.env) {
            Ok(meta) => {
                let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
                format!("{}-{}-{times:?}", meta.ino(), meta.size())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => "none".to_owned(),
            Err(error) => return Err(self.env_failed(error)),
        };
        Ok(hash([tree.as_bytes(), env.as_bytes()]))
    }

    fn digest(&self, stop: Stop<'_>) -> Result<String, FetchError> {
        let tree = digest_tree(&self.tree, stop).map_err(|e| self.tree_failed(e))?;
        let env = self.env_text()?;
        Ok(hash([tree.as_bytes(), &[u8::from(env.is_some())], &env.unwrap_or_default()]))
    }

    fn env_text(&self) -> Result<Option<Vec<u8>>, FetchError> {
        match fs::read(&self.env) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.env_failed(error)),
        }
    }

    fn env_failed(&self, error: std::io::Error) -> FetchError {
        failed(format!("read `{}`", self.env.display()), error)
    }

    fn tree_failed(&self, error: tree_copy::Error) -> FetchError {
        match error {
            tree_copy::Error::Cancelled => FetchError::Cancelled(self.name.clone()),
            other => failed(format!("read image `{}`", self.name), other),
        }
    }
}

fn write(log: &BuildLog, line: &str) -> Result<(), FetchError> {
    log.write(line.as_bytes()).map_err(|e| failed("write the log".to_owned(), e))
}

fn failed(action: String, source: impl Into<Box<dyn Error + Send + Sync>>) -> FetchError {
    FetchError::Failed { action, source: source.into() }
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}
