//! Locks that the kernel releases when their process dies, with the commands that it ran under them: `flock(2)` on files.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{ThreadId, sleep};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// How often somebody else may be looking at a lock, and how long that takes at the most.
const LOOKS: u32 = 4;
const LOOK: Duration = Duration::from_millis(1);

/// All locks of this process, each with the thread that took it unless every thread works under it.
static HELD: Mutex<Vec<(Option<ThreadId>, RawFd)>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<(Option<ThreadId>, RawFd)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts `command` with the locks that the calling thread, or the process as a whole, has taken and still holds: if this process is
/// killed, they are held until the command has ended too, which goes on with what it was told.
pub(crate) fn start_under_locks(command: &mut Command) -> io::Result<Child> {
    // None of them is closed, and its number given to another file, until the command has it.
    let held = held();
    let thread = std::thread::current().id();
    let is_own = |taker: &Option<ThreadId>| taker.is_none_or(|taker| taker == thread);
    let own: Vec<_> = held.iter().filter(|(taker, _)| is_own(taker)).map(|(_, fd)| *fd).collect();
    if !own.is_empty() {
        let keep = move || {
            own.iter().try_for_each(|fd| {
                // SAFETY: `held` keeps it open until the command has started.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(io::Error::from)
            })
        };
        // SAFETY: it does nothing but a system call for each, which is safe between a fork and an exec.
        unsafe { command.pre_exec(keep) };
    }
    command.spawn()
}

/// A file with a lock, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    fd: OwnedFd,
}

impl Locked {
    /// Locks the file at `path` shared, made if it is missing, waiting for an exclusive lock to go.
    pub(crate) fn shared(path: &Path) -> io::Result<Self> {
        Ok(Self::lock(path, FlockOperation::LockShared)?.expect("it waits"))
    }

    /// Locks it exclusively, waiting for others.
    pub(crate) fn alone(path: &Path) -> io::Result<Self> {
        Ok(Self::lock(path, FlockOperation::LockExclusive)?.expect("it waits"))
    }

    /// Locks it exclusively; `None` if anybody holds a lock on it for longer than it takes to look whether somebody does.
    pub(crate) fn try_alone(path: &Path) -> io::Result<Option<Self>> {
        let attempt = || Self::lock(path, FlockOperation::NonBlockingLockExclusive);
        for _ in 1..LOOKS {
            if let Some(locked) = attempt()? {
                return Ok(Some(locked));
            }
            sleep(LOOK);
        }
        attempt()
    }

    /// Has every thread work under it.
    pub(crate) fn for_all_threads(self) -> Self {
        for (taker, fd) in held().iter_mut() {
            if *fd == self.fd.as_raw_fd() {
                *taker = None;
            }
        }
        self
    }

    /// Whether somebody holds the file at `path`.
    pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        match retry(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the file, which this has alone: nobody waits for it who would not look again.
    pub(crate) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Removes the file at `path` unless somebody holds it.
    pub(crate) fn remove_if_free(path: &Path) -> io::Result<()> {
        Self::try_alone(path)?.map_or(Ok(()), Self::remove)
    }

    /// The path still leads to the locked file when this returns.
    fn lock(path: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        loop {
            let fd = rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?;
            match retry(|| rustix::fs::flock(&fd, operation)) {
                Ok(()) if leads_to(path, &fd)? => {
                    held().push((Some(std::thread::current().id()), fd.as_raw_fd()));
                    return Ok(Some(Self { path: path.to_owned(), fd }));
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Locked {
    /// A command that was started under it has it too, and may still run.
    fn drop(&mut self) {
        let mut held = held();
        held.retain(|(_, fd)| *fd != self.fd.as_raw_fd());
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }
}

/// A lock whose file goes with it.
#[derive(Debug)]
pub(crate) struct Own(Option<Locked>);

impl Own {
    pub(crate) fn new(lock: Locked) -> Self {
        Self(Some(lock))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Locked::remove) {
            // The next start removes it.
            tracing::debug!(%error, "the file of a lock stays");
        }
    }
}

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn leads_to(path: &Path, fd: impl AsFd) -> io::Result<bool> {
    let open = rustix::fs::fstat(fd)?;
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (open.st_dev, open.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn retry(call: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_removed_lock_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shared = Locked::shared(&path).unwrap();
        assert!(Locked::try_alone(&path).unwrap().is_none() && Locked::is_held(&path).unwrap());
        drop(shared);
        assert!(!Locked::is_held(&path).unwrap());
        Locked::try_alone(&path).unwrap().unwrap().remove().unwrap();
        assert!(!Locked::is_held(&path).unwrap() && !path.exists());
        Locked::shared(&path).unwrap();
        assert!(path.exists());
    }
}
