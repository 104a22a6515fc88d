//! Directories for work under way, which a killed process does not leave for ever.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::download::make_dirs;
use crate::error::{Error, Result};

/// A directory that goes with this value; what a killed process could not remove, the next [`Scratch::new`] does.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    /// Held while the directory is in use.
    _lock: File,
}

impl Scratch {
    /// Makes a directory in `parent` whose name begins with `prefix`.
    pub(crate) fn new(parent: &Path, prefix: &str) -> Result<Self> {
        make_dirs(parent)?;
        // Between being made and being locked a directory looks like one that was left.
        let lock = |dir: &Path, how| -> Result<Option<File>> {
            let opened = File::open(dir).map_err(Error::io("open", dir))?;
            match flock(&opened, how) {
                Ok(()) => Ok(Some(opened)),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(Error::io("lock", dir)(error.into())),
            }
        };
        let _alone = lock(parent, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(parent).map_err(Error::io("list", parent))?.flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with(prefix);
            let path = entry.path();
            if ours && lock(&path, FlockOperation::NonBlockingLockExclusive)?.is_some() {
                tree_copy::remove_tree(&path).map_err(|error| Error::Tree {
                    action: format!("remove `{}`", path.display()),
                    source: error.into(),
                })?;
            }
        }
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
        let dir = made.map_err(Error::io("make a directory in", parent))?;
        let held = lock(dir.path(), FlockOperation::LockExclusive)?;
        let held = held.expect("a lock that is waited for is had");
        Ok(Self { dir, _lock: held })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("work-left");
        fs::create_dir_all(left.join("sub")).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        let first = Scratch::new(dir.path(), "work-").unwrap();
        let second = Scratch::new(dir.path(), "work-").unwrap();
        assert!(!left.exists() && first.path().is_dir() && second.path().is_dir());
        drop((first, second));
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["other"]);
    }
}
