//! Locks that the kernel releases when their process dies: `flock(2)` on directories.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// An open file or directory with a lock, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Locked(OwnedFd);

/// Outcome of asking for an exclusive lock without waiting.
pub(crate) enum Exclusive {
    /// Ours.
    Locked(Locked),
    /// Someone holds a lock.
    Held,
    /// There is nothing at the path.
    Missing,
}

impl Locked {
    /// Locks the directory at `path` shared, waiting for an exclusive lock to go. `None` when there is none.
    ///
    /// The path still leads to the locked directory when this returns.
    pub(crate) fn shared(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let Some(fd) = open_dir(path)? else { return Ok(None) };
            retry(|| rustix::fs::flock(&fd, FlockOperation::LockShared))?;
            if leads_to(path, &fd)? {
                return Ok(Some(Self(fd)));
            }
        }
    }

    /// Locks the directory at `path` exclusively if nobody holds a lock on it.
    pub(crate) fn exclusive(path: &Path) -> io::Result<Exclusive> {
        loop {
            let Some(fd) = open_dir(path)? else { return Ok(Exclusive::Missing) };
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if leads_to(path, &fd)? => return Ok(Exclusive::Locked(Self(fd))),
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Exclusive::Held),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Locks the file at `path`, made if it is missing, waiting for others.
    pub(crate) fn file(path: &Path, operation: FlockOperation) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?;
        retry(|| rustix::fs::flock(&fd, operation))?;
        Ok(Self(fd))
    }

    /// Waits until nobody else holds a lock on what this has open, and locks it exclusively.
    pub(crate) fn wait_alone(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::flock(&self.0, FlockOperation::LockExclusive))?)
    }

    /// Releases the lock but keeps the directory open, so that no other gets its inode.
    pub(crate) fn into_unlocked(self) -> io::Result<OwnedFd> {
        retry(|| rustix::fs::flock(&self.0, FlockOperation::Unlock))?;
        Ok(self.0)
    }
}

/// Opens the directory at `path`; `None` when there is none.
pub(crate) fn open_dir(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether `path` still leads to what `fd` has open.
pub(crate) fn leads_to(path: &Path, fd: impl AsFd) -> io::Result<bool> {
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
