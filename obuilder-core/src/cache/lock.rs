//! One lock per id, so that of several processes one builds a step and the others wait for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::cancel::Cancel;
use crate::id::ResultId;

/// How often a waiting process looks again. `flock` cannot be waited for and cancelled at once.
const RETRY: Duration = Duration::from_millis(20);

/// Held while a step is being built; the lock goes with the process.
pub(super) struct IdLock {
    path: PathBuf,
    _file: File,
}

impl IdLock {
    /// Takes the lock of `id`; `None` when cancelled first. `waiting` is called once if another process holds it.
    pub(super) fn acquire(
        state: &Path,
        id: &ResultId,
        cancel: &Cancel,
        waiting: impl FnOnce(),
    ) -> io::Result<Option<Self>> {
        let dir = state.join("locks");
        let path = dir.join(id.as_str());
        let mut waiting = Some(waiting);
        loop {
            let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = open().or_else(|_| fs::create_dir_all(&dir).and_then(|()| open()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The holder before us removes the file; a lock on a removed file excludes nobody.
                Ok(()) if is_at(&file, &path)? => return Ok(Some(Self { path, _file: file })),
                Ok(()) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            if cancel.wait_timeout(RETRY) {
                return Ok(None);
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok(there.ino() == held.ino() && there.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for IdLock {
    fn drop(&mut self) {
        // Removed while still held, so that nobody can lock a file that is about to go.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("failed to remove `{}`: {error}", self.path.display());
        }
    }
}
