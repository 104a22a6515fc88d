//! One lock per id, so that of several processes one builds a step and the others wait for it.
//!
//! The locked file says what the others should know ([`Notice`]): where the step's log is, and how a step that failed
//! has failed. Whoever waits keeps the file open, so that it is read even when it has been removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::cancel::Cancel;
use crate::id::ResultId;

/// How often a waiting process looks again. `flock` cannot be waited for and cancelled at once, and a log that another
/// process writes is to be followed as if it were our own.
const RETRY: Duration = Duration::from_millis(8);

/// A notice is no longer than this.
const LONGEST: usize = 1 << 16;

/// What the process that builds a step tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Notice {
    /// The log of the present attempt; it may not be there yet.
    pub(super) log: Option<PathBuf>,
    /// How the command failed.
    pub(super) failed: Option<Failed>,
}

/// How a command failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Failed {
    /// One line.
    pub(super) reason: String,
    /// Whether its tree was to be kept.
    pub(super) keep: bool,
}

impl Notice {
    /// Reads what stands in the locked file; nothing while it is being written.
    fn read(file: &File) -> Self {
        let mut text = vec![0; LONGEST];
        let length = file.read_at(&mut text, 0).unwrap_or(0);
        // What is behind the first line was left by a longer notice.
        let line = text[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).unwrap_or_default()
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        file.write_all_at(&text, 0)?;
        file.set_len(text.len() as u64)
    }
}

/// Whoever waits for a step that another process builds.
pub(super) trait Waiting {
    /// Told again and again while the other builds.
    fn look(&mut self, notice: Notice);

    /// The other has ended, well or not. The failure that is to be ours too, if any.
    fn ended(&mut self, notice: Notice) -> Option<String>;
}

/// What came of wanting a lock.
pub(super) enum Turn {
    /// Ours.
    Ours(IdLock),
    /// The process that built the step has failed, and nobody need try again.
    Failed(String),
    /// Cancelled first.
    Cancelled,
}

/// Held while a step is being built; the lock goes with the process.
pub(super) struct IdLock {
    path: PathBuf,
    file: File,
}

impl IdLock {
    /// Takes the lock of `id`, telling `waiting` what whoever holds it says meanwhile.
    pub(super) fn acquire(
        state: &Path,
        id: &ResultId,
        cancel: &Cancel,
        waiting: &mut dyn Waiting,
    ) -> io::Result<Turn> {
        let dir = locks(state);
        let path = dir.join(id.as_str());
        loop {
            let file =
                open(&path).or_else(|_| fs::create_dir_all(&dir).and_then(|()| open(&path)))?;
            while !try_lock(&file)? {
                waiting.look(Notice::read(&file));
                if cancel.wait_timeout(RETRY) {
                    return Ok(Turn::Cancelled);
                }
            }
            if is_at(&file, &path)? {
                // A process that was killed has left its notice.
                file.set_len(0)?;
                return Ok(Turn::Ours(Self { path, file }));
            }
            // The holder before us has removed the file; a lock on a removed file excludes nobody.
            if let Some(reason) = waiting.ended(Notice::read(&file)) {
                return Ok(Turn::Failed(reason));
            }
        }
    }

    /// Removes the files of locks that killed processes held.
    pub(super) fn sweep(state: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(locks(state)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            match OpenOptions::new().write(true).open(&path) {
                Ok(file) if try_lock(&file)? && is_at(&file, &path)? => {
                    drop(Self { path, file });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Files of locks that nobody holds.
    pub(super) fn dead(state: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(locks(state)).into_iter().flatten().flatten();
        let free =
            |path: &PathBuf| File::open(path).is_ok_and(|file| try_lock(&file).unwrap_or(false));
        entries.map(|entry| entry.path()).filter(free).collect()
    }

    /// Whether a process is building the step.
    pub(super) fn is_held(state: &Path, id: &ResultId) -> bool {
        let file = File::open(locks(state).join(id.as_str()));
        file.is_ok_and(|file| !try_lock(&file).unwrap_or(false))
    }

    /// Tells the others where the log of the attempt that begins now will be.
    pub(super) fn tell_log(&self, log: &Path) {
        self.tell(&Notice { log: Some(log.to_owned()), failed: None });
    }

    /// Tells the others that the command has failed.
    pub(super) fn tell_failure(&self, reason: &str, keep: bool) {
        let failed = Some(Failed { reason: reason.to_owned(), keep });
        self.tell(&Notice { log: None, failed });
    }

    /// The others can do without, if they must: they wait, and build the step themselves.
    fn tell(&self, notice: &Notice) {
        if let Err(error) = notice.write(&self.file) {
            tracing::debug!("failed to write to `{}`: {error}", self.path.display());
        }
    }
}

fn locks(state: &Path) -> PathBuf {
    state.join("locks")
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
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
        // Closing alone would leave the lock to a child that another thread has just forked, until that runs its program.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!("failed to unlock `{}`: {error}", self.path.display());
        }
    }
}
