//! Locks that hold for every process on the machine, and what a killed one was doing.
//!
//! A lock is `flock(2)` on a small file, so it goes with its holder, however that ends. The file's text says what
//! the holder had in hand; empty text means that it had finished.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use obuilder_core::Cancel;
use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// How often a waiting process looks again.
const PATIENCE: Duration = Duration::from_millis(10);

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    text: String,
    fresh: bool,
}

impl Lock {
    /// Takes the lock, telling `waiting` once if that takes time; [`Error::Cancelled`] if `cancel` comes first.
    pub(crate) fn acquire(path: &Path, cancel: &Cancel, waiting: impl Fn()) -> Result<Self> {
        Self::wait(path, FlockOperation::NonBlockingLockExclusive, cancel, waiting)
    }

    /// Takes the lock together with others who share it, likewise.
    pub(crate) fn share(path: &Path, cancel: &Cancel, waiting: impl Fn()) -> Result<Self> {
        Self::wait(path, FlockOperation::NonBlockingLockShared, cancel, waiting)
    }

    /// Takes the lock if nobody else has it.
    pub(crate) fn attempt(path: &Path) -> Result<Option<Self>> {
        let (file, fresh) = open(path)?;
        match lock(&file, path, FlockOperation::NonBlockingLockExclusive)? {
            true if is_at(&file, path) => Self::taken(file, path, fresh).map(Some),
            _ => Ok(None),
        }
    }

    fn wait(
        path: &Path,
        operation: FlockOperation,
        cancel: &Cancel,
        waiting: impl Fn(),
    ) -> Result<Self> {
        let (mut file, mut fresh) = open(path)?;
        let mut told = false;
        loop {
            if lock(&file, path, operation)? {
                if is_at(&file, path) {
                    return Self::taken(file, path, fresh);
                }
                // Somebody has removed it, and others lock what stands there now.
                (file, fresh) = open(path)?;
                continue;
            }
            if !std::mem::replace(&mut told, true) {
                waiting();
            }
            if cancel.wait_timeout(PATIENCE) {
                return Err(Error::Cancelled);
            }
        }
    }

    fn taken(mut file: File, path: &Path, fresh: bool) -> Result<Self> {
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(Error::io(format!("read `{}`", path.display())))?;
        Ok(Self { file, path: path.to_owned(), text, fresh })
    }

    /// What is in hand: left by a killed holder, or set since. Empty when nothing is.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether nobody has held this lock before (since the machine started, for a lock in `/run`).
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Says what is in hand now.
    pub(crate) fn set_text(&mut self, text: &str) -> Result<()> {
        let set = |text: &str| {
            self.file.write_all_at(text.as_bytes(), 0)?;
            self.file.set_len(text.len() as u64)
        };
        set(text).map_err(Error::io(format!("write `{}`", self.path.display())))?;
        text.clone_into(&mut self.text);
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do: a process that another thread has just forked has the file too until it executes
        // its program. An unlock that fails leaves it to the closing.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Opens the file of a lock; says whether it was made.
fn open(path: &Path) -> Result<(File, bool)> {
    let action = || format!("open the lock `{}`", path.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok((options.create(true).open(path).map_err(Error::io(action()))?, true))
        }
        opened => Ok((opened.map_err(Error::io(action()))?, false)),
    }
}

/// Whether `file` is what stands at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let numbers = |found: std::fs::Metadata| (found.dev(), found.ino());
    let (held, there) = (file.metadata().map(numbers), path.symlink_metadata().map(numbers));
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

/// Tries to lock; says whether that succeeded.
fn lock(file: &File, path: &Path, operation: FlockOperation) -> Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(Error::io(format!("lock `{}`", path.display()))(error)),
    }
}
