//! Listing directories.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{FileAttr, FileType, FopenFlags};
use rustix::fs::FileType as DiskType;
use rustix::io::{Errno, Result};

use crate::core::Call;
use crate::meta::Meta;
use crate::opened::OpenDirectory;
use crate::os;
use crate::os::listing::{Entry, Listing};

/// An entry with its attributes, told to the kernel as if it had looked it up.
pub(crate) struct Full<'a> {
    pub(crate) name: &'a OsStr,
    pub(crate) attributes: FileAttr,
    pub(crate) generation: u64,
    pub(crate) lasts: Duration,
    pub(crate) next: u64,
}

impl Call<'_> {
    /// Opens a directory.
    pub(crate) fn opendir(&self, number: u64) -> Result<(u64, FopenFlags)> {
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        let fd = self.within(&node, || os::special::reopen_directory(fd.as_fd()))?;
        // The top lists other names for the next caller, so the kernel may not keep its list.
        let flags = if node.is_top() {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        };
        let device = os::meta::of_fd(fd.as_fd())?.device;
        let listing = Mutex::new(Listing::new(fd));
        Ok((self.core.directories.add(OpenDirectory { listing, node, device }), flags))
    }

    /// Shows names from `offset` on; `add` says when there is no room for another.
    pub(crate) fn readdir(
        &self,
        open: &OpenDirectory,
        offset: u64,
        mut add: impl FnMut(u64, u64, FileType, &OsStr) -> bool,
    ) -> Result<()> {
        open.node.view.counts.add(self.operation);
        let mut listing = open.listing.lock().unwrap_or_else(PoisonError::into_inner);
        listing.read(offset, |entry| {
            let number = self.core.nodes.known(&open.node.view, open.device, entry.inode);
            let name = OsStr::from_bytes(entry.name.to_bytes());
            Ok(!add(number, entry.next, kind(entry.kind), name))
        })
    }

    /// Shows names with attributes from `offset` on; `add` says when there is no room for another.
    pub(crate) fn readdirplus(
        &self,
        open: &OpenDirectory,
        offset: u64,
        mut add: impl FnMut(&Full<'_>) -> bool,
    ) -> Result<()> {
        open.node.view.counts.add(self.operation);
        let mut listing = open.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = Arc::new(os::special::duplicate(listing.fd())?);
        listing.read(offset, |entry| self.show(open, &dir, &entry, &mut add))
    }

    fn show(
        &self,
        open: &OpenDirectory,
        dir: &std::os::fd::OwnedFd,
        entry: &Entry<'_>,
        add: &mut impl FnMut(&Full<'_>) -> bool,
    ) -> Result<bool> {
        let name = OsStr::from_bytes(entry.name.to_bytes());
        let mut full = Full {
            name,
            attributes: unknown(),
            generation: 0,
            lasts: Duration::ZERO,
            next: entry.next,
        };
        let view = &open.node.view;
        if name == "." || name == ".." {
            full.attributes.ino.0 = self.core.nodes.known(view, open.device, entry.inode);
            return Ok(!add(&full));
        }
        let found = os::meta::of_entry(dir.as_fd(), entry.name).and_then(|meta| {
            Ok((self.enter_entry(&open.node, dir.as_fd(), entry.name, &meta)?, meta))
        });
        let (node, meta) = match found {
            Ok(found) => found,
            // Removed or replaced since the directory was read: an entry less.
            Err(Errno::NOENT | Errno::STALE) => return Ok(true),
            Err(error) => return Err(error),
        };
        full.attributes = meta.attributes(node.number);
        full.generation = node.generation();
        full.lasts = self.names_last(&open.node);
        let added = !add(&full);
        if !added {
            self.core.nodes.forget(node.number, 1);
        }
        Ok(added)
    }
}

fn unknown() -> FileAttr {
    Meta {
        device: 0,
        inode: 0,
        born: None,
        mode: 0o040_000,
        links: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        block_size: 4096,
        accessed: Default::default(),
        modified: Default::default(),
        changed: Default::default(),
    }
    .attributes(0)
}

fn kind(kind: DiskType) -> FileType {
    match kind {
        DiskType::Directory => FileType::Directory,
        DiskType::Symlink => FileType::Symlink,
        DiskType::Fifo => FileType::NamedPipe,
        DiskType::Socket => FileType::Socket,
        DiskType::CharacterDevice => FileType::CharDevice,
        DiskType::BlockDevice => FileType::BlockDevice,
        DiskType::RegularFile | DiskType::Unknown => FileType::RegularFile,
    }
}
