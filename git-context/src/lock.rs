//! Locks that hold for every process on the machine: `flock(2)`, which goes with its holder, however that ends.
//!
//! The processes of Git inherit that on the job's directory: when this process is killed, it stays until the last of them has ended, so
//! that nobody sweeps away what they still write. Mirrors stand two that write at once, and are not kept from others by orphans.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use obuilder_core::Cancel;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How often a waiting process looks again. `flock` cannot be waited for and cancelled at once.
const RETRY: Duration = Duration::from_millis(10);

/// Whether others may hold the lock as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Alone,
}

impl Mode {
    fn operation(self) -> FlockOperation {
        match self {
            Self::Shared => FlockOperation::NonBlockingLockShared,
            Self::Alone => FlockOperation::NonBlockingLockExclusive,
        }
    }
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the lock at `path`, making the file and its directory if they are missing. `waiting` is called once if that takes time.
    pub(crate) fn acquire(
        path: &Path,
        mode: Mode,
        cancel: &Cancel,
        waiting: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            if let Some(lock) = Self::attempt(path, mode)? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting()?;
            }
            if cancel.wait_timeout(RETRY) {
                return Err(Error::Cancelled);
            }
        }
    }

    /// Takes the lock if nobody is in the way.
    pub(crate) fn attempt(path: &Path, mode: Mode) -> Result<Option<Self>> {
        let failed = || format!("lock `{}`", path.display());
        loop {
            let file = open(path).map_err(Error::io(failed()))?;
            if !lock(&file, mode).map_err(Error::io(failed()))? {
                return Ok(None);
            }
            // Whoever removes a mirror removes its locks; a lock on a removed file excludes nobody.
            if leads_to(path, &file) {
                return Ok(Some(Self(file)));
            }
        }
    }

    /// Locks the directory at `path`, which nobody else may hold a lock on; `None` when somebody does or there is none.
    pub(crate) fn directory(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let file = match options.read(true).custom_flags(flags).open(path) {
            Err(error) if is_no_directory(&error) => return Ok(None),
            opened => opened?,
        };
        let held = lock(&file, Mode::Alone)? && leads_to(path, &file);
        Ok(held.then_some(Self(file)))
    }

    /// Sets the time that [`last_used`] tells.
    pub(crate) fn touch(&self) {
        // It only orders the mirrors for pruning.
        let _ = self.0.set_modified(SystemTime::now());
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do: a process that was just forked has the descriptor too. Should this fail, its end unlocks.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// When the lock at `path` was last touched.
pub(crate) fn last_used(path: &Path) -> SystemTime {
    path.symlink_metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(nix::libc::O_NOFOLLOW);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            options.open(path)
        }
        opened => opened,
    }
}

fn is_no_directory(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Whether `file` is what stands at `path`.
fn leads_to(path: &Path, file: &File) -> bool {
    let numbers = |found: std::fs::Metadata| (found.dev(), found.ino());
    let (held, there) = (file.metadata().map(numbers), path.symlink_metadata().map(numbers));
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

/// Tries to lock; says whether that succeeded.
fn lock(file: &File, mode: Mode) -> io::Result<bool> {
    match flock(file, mode.operation()) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_writers_wait_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/lock");
        let first = Lock::attempt(&path, Mode::Shared).unwrap().unwrap();
        let second = Lock::attempt(&path, Mode::Shared).unwrap().unwrap();
        assert!(Lock::attempt(&path, Mode::Alone).unwrap().is_none());
        drop(first);
        let cancel = Cancel::new();
        let mut told = 0;
        let waiting = || {
            told += 1;
            cancel.cancel();
            Ok(())
        };
        let error = Lock::acquire(&path, Mode::Alone, &cancel, waiting).unwrap_err();
        assert!(matches!(error, Error::Cancelled));
        assert_eq!(told, 1);
        drop(second);
        assert!(Lock::attempt(&path, Mode::Alone).unwrap().is_some());
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::directory(dir.path()).unwrap().unwrap();
        assert!(Lock::directory(dir.path()).unwrap().is_none());
        drop(held);
        assert!(Lock::directory(dir.path()).unwrap().is_some());
        assert!(Lock::directory(&dir.path().join("none")).unwrap().is_none());
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(".", dir.path().join("link")).unwrap();
        assert!(Lock::directory(&dir.path().join("file")).unwrap().is_none());
        assert!(Lock::directory(&dir.path().join("link")).unwrap().is_none());
    }
}
