//! Brings a tree to the disk.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags};

use crate::error::Error;
use crate::listing::Entry;
use crate::place::Place;
use crate::platform;
use crate::walk::{Inspect, Root, walk};

/// Up to so many files and directories are brought to the disk one by one, at half a millisecond each where this was
/// measured. For more, asking for the whole volume is cheaper, though that also waits for what others have written.
const ONE_BY_ONE: usize = 8;

/// Makes `path` and everything below it durable: when it returns, a power cut loses nothing of it.
pub fn sync_tree(path: &Path) -> Result<(), Error> {
    let sync = Sync { root: Root::open(path)?, seen: AtomicUsize::new(0) };
    match walk(&sync, sync.root.start()?, 1) {
        Ok(()) | Err(Error::Cancelled) => {}
        Err(error) => return Err(error),
    }
    if sync.seen.into_inner() > ONE_BY_ONE { sync_volume(path) } else { Ok(()) }
}

/// Makes all that was written to the volume of the directory `path` durable, whoever wrote it.
pub fn sync_volume(path: &Path) -> Result<(), Error> {
    let dir = Root::open(path)?;
    platform::sync_volume(dir.fd()).map_err(|source| Error::Io {
        action: "sync the volume of",
        path: path.to_owned(),
        source: source.into(),
    })
}

/// Makes the names in the directory `path` durable: what was renamed into it stays there.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    let dir = Root::open(path)?;
    platform::sync_one(dir.fd()).map_err(|source| Error::Io {
        action: "sync",
        path: path.to_owned(),
        source: source.into(),
    })
}

struct Sync<'a> {
    root: Root<'a>,
    seen: AtomicUsize,
}

impl Sync<'_> {
    /// Counts one more; says whether it is still to be done by itself.
    fn one_more(&self) -> bool {
        self.seen.fetch_add(1, Ordering::Relaxed) < ONE_BY_ONE
    }

    fn sync(&self, fd: impl AsFd, place: &Place, name: Option<&CStr>) -> Result<(), Error> {
        platform::sync_one(fd.as_fd()).map_err(|e| self.error("sync", place, name, e))
    }
}

impl Inspect for Sync<'_> {
    fn root(&self) -> &Root<'_> {
        &self.root
    }

    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        for Entry { name, kind, .. } in entries {
            if *kind != FileType::RegularFile || !self.one_more() {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(dir, name, flags, Mode::empty())
                .map_err(|e| self.error("open", place, Some(name), e))?;
            self.sync(file, place, Some(name))?;
        }
        Ok(())
    }

    /// There is nothing more to do than to ask for the whole volume.
    fn cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) > ONE_BY_ONE
    }

    fn finish(&self, dir: &OwnedFd, place: &Place) -> Result<(), Error> {
        if self.one_more() { self.sync(dir, place, None) } else { Ok(()) }
    }
}
