//! Measures a tree.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use crate::error::Error;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::walk::{Inspect, Root, walk};

/// What a tree takes on the disk, in bytes. An inode with several names counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeSize {
    /// All of it.
    pub allocated: u64,
    /// What would become free if the tree were removed: files that have names elsewhere too are not in it. Blocks shared
    /// by clones are.
    pub freed: u64,
}

/// Measures `path` and everything below it.
pub fn tree_size(path: &Path) -> Result<TreeSize, Error> {
    let size = Size { root: Root::open(path)?, bytes: AtomicU64::new(0), linked: Mutex::default() };
    let root =
        Meta::of(size.root.fd()).map_err(|e| size.error("read", &Place::default(), None, e))?;
    walk(&size, size.root.start()?, queue::default_threads())?;
    let alone = root.allocated + size.bytes.into_inner();
    let mut sum = TreeSize { allocated: alone, freed: alone };
    for linked in size.linked.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
        sum.allocated += linked.bytes;
        sum.freed += if linked.elsewhere == 0 { linked.bytes } else { 0 };
    }
    Ok(sum)
}

struct Size<'a> {
    root: Root<'a>,
    bytes: AtomicU64,
    linked: Mutex<HashMap<(u64, u64), Linked>>,
}

/// An inode with several names.
struct Linked {
    bytes: u64,
    /// Names not met yet.
    elsewhere: u64,
}

impl Size<'_> {
    fn count(&self, meta: &Meta) {
        if meta.kind == FileType::Directory || meta.nlink < 2 {
            self.bytes.fetch_add(meta.allocated, Ordering::Relaxed);
            return;
        }
        let mut linked = self.linked.lock().unwrap_or_else(PoisonError::into_inner);
        let inode = linked
            .entry(meta.inode())
            .or_insert(Linked { bytes: meta.allocated, elsewhere: meta.nlink });
        inode.elsewhere = inode.elsewhere.saturating_sub(1);
    }
}

impl Inspect for Size<'_> {
    fn root(&self) -> &Root<'_> {
        &self.root
    }

    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        for Entry { name, .. } in entries {
            let meta = Meta::at(dir, name).map_err(|e| self.error("read", place, Some(name), e))?;
            self.count(&meta);
        }
        Ok(())
    }
}
