//! Measures a tree.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use crate::error::Error;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::walk::{Root, Visitor, walk};

/// Bytes that `path` and everything below it take on the disk, an inode with several names counted once.
pub fn tree_size(path: &Path) -> Result<u64, Error> {
    let size = Size { root: Root::open(path)?, bytes: AtomicU64::new(0), seen: Mutex::default() };
    let root =
        Meta::of(size.root.fd()).map_err(|e| size.error("read", &Place::default(), None, e))?;
    walk(&size, size.root.start()?, queue::default_threads())?;
    Ok(root.allocated + size.bytes.into_inner())
}

struct Size<'a> {
    root: Root<'a>,
    bytes: AtomicU64,
    seen: Mutex<HashSet<(u64, u64)>>,
}

impl Size<'_> {
    fn count(&self, meta: &Meta) {
        let several = meta.kind != FileType::Directory && meta.nlink > 1;
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !several || seen().insert(meta.inode()) {
            self.bytes.fetch_add(meta.allocated, Ordering::Relaxed);
        }
    }
}

impl Visitor for Size<'_> {
    type Dir = OwnedFd;

    fn open(&self, parent: &OwnedFd, name: &CStr, place: &Place) -> Result<OwnedFd, Error> {
        self.root.child(parent, name, place)
    }

    fn reopen(&self, place: &Place) -> Result<OwnedFd, Error> {
        self.root.reopen(place)
    }

    fn listed<'a>(&self, dir: &'a OwnedFd) -> BorrowedFd<'a> {
        dir.as_fd()
    }

    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        for Entry { name, .. } in entries {
            let meta = Meta::at(dir, name).map_err(|e| self.error("read", place, Some(name), e))?;
            self.count(&meta);
        }
        Ok(())
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> PathBuf {
        self.root.path(place, name)
    }
}
