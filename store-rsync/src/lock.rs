//! Locks that the kernel releases when their process dies: `flock(2)` on directories.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
            let locked = Self(fd);
            if leads_to(path, &locked)? {
                return Ok(Some(locked));
            }
        }
    }

    /// Locks the directory at `path` exclusively if nobody holds a lock on it.
    pub(crate) fn exclusive(path: &Path) -> io::Result<Exclusive> {
        loop {
            let Some(fd) = open_dir(path)? else { return Ok(Exclusive::Missing) };
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let locked = Self(fd);
                    if leads_to(path, &locked)? {
                        return Ok(Exclusive::Locked(locked));
                    }
                }
                Err(Errno::INTR) => {}
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
    pub(crate) fn unlock(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::flock(&self.0, FlockOperation::Unlock))?)
    }
}

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that another thread has just forked, until that runs its program.
        if let Err(error) = self.unlock() {
            tracing::warn!(%error, "failed to release a lock");
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A child that has been forked and not yet become another program has its parent's descriptors, as a duplicate is one.
    #[test]
    fn a_lock_goes_although_a_child_has_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        for shared in [true, false] {
            let shared = shared.then(|| Locked::shared(dir.path()).unwrap().unwrap());
            let locked = shared.unwrap_or_else(|| exclusive(dir.path()).unwrap());
            let _of_child = locked.0.try_clone().unwrap();
            assert!(exclusive(dir.path()).is_none());
            drop(locked);
            assert!(exclusive(dir.path()).is_some());
        }
    }

    fn exclusive(path: &Path) -> Option<Locked> {
        match Locked::exclusive(path).unwrap() {
            Exclusive::Locked(locked) => Some(locked),
            Exclusive::Held | Exclusive::Missing => None,
        }
    }
}
