//! Lets a finished tree share the files it has in common with an older one.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result as SysResult};

use crate::attributes::same_attributes;
use crate::contents::same_contents;
use crate::error::Error;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::{self, Place};
use crate::queue;
use crate::walk::{Root, Visitor, walk};

/// When two files count as the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// When their contents and everything about them are.
    Contents,
    /// When everything about them is, size and modification time included; contents are not read.
    Times,
}

/// What [`share_identical`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shared {
    /// Names that are now hard links to the older tree's files.
    pub files: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
}

/// Replaces files of `tree` by hard links to the files of `base` that lie at the same path and are the same: same owner,
/// mode, time, extended attributes and contents (see [`Trust`]). Nothing that can be read of `tree` changes.
///
/// Which names of `tree` share an inode with each other does not change either. Nobody may write to either tree
/// meanwhile or afterwards. An error leaves `tree` as good as before.
pub fn share_identical(tree: &Path, base: &Path, trust: Trust) -> Result<Shared, Error> {
    let sharer = Sharer {
        tree: Root::open(tree)?,
        base: Root::open(base)?,
        trust,
        claims: Mutex::default(),
        groups: Mutex::default(),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let first = sharer.side(sharer.tree.start()?, Some(sharer.base.start()?), &Place::root())?;
    walk(&sharer, first, queue::default_threads())?;
    sharer.share_groups()?;
    Ok(Shared { files: sharer.files.into_inner(), bytes: sharer.bytes.into_inner() })
}

type Inode = (u64, u64);

/// The names of one inode of the tree, as far as they were met, with the base's inode of the same names.
struct Group {
    names: Vec<(Arc<Place>, CString)>,
    meta: Meta,
    /// `None` once they were found to differ.
    base: Option<Inode>,
}

struct Sharer<'a> {
    tree: Root<'a>,
    base: Root<'a>,
    trust: Trust,
    /// Which inode of the tree each inode of the base stands for: two files must not become one.
    claims: Mutex<HashMap<Inode, Inode>>,
    groups: Mutex<HashMap<Inode, Group>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// A directory of the tree, what it was before, and the base's at the same path.
struct Side {
    tree: OwnedFd,
    meta: Meta,
    base: Option<OwnedFd>,
}

impl Sharer<'_> {
    fn side(&self, tree: OwnedFd, base: Option<OwnedFd>, place: &Place) -> Result<Side, Error> {
        let meta = Meta::of(&tree).map_err(|e| self.error("read", place, None, e))?;
        Ok(Side { tree, meta, base })
    }

    fn file(
        &self,
        (dir, base): (BorrowedFd<'_>, BorrowedFd<'_>),
        place: &Arc<Place>,
        name: &CStr,
    ) -> SysResult<()> {
        let meta = Meta::at(dir, name)?;
        let older = match Meta::at(base, name) {
            Ok(older) => older,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let like = |m: &Meta| (m.kind, m.mode, m.uid, m.gid, m.size, m.mtime);
        let apart = meta.dev != older.dev || meta.ino == older.ino;
        if apart || like(&meta) != like(&older) || !self.same(dir, base, name)? {
            return Ok(());
        }
        if meta.nlink > 1 {
            self.join(&meta, &older, place, name);
        } else if self.claim(&older, &meta) {
            self.replace(dir, base, name, &meta)?;
        }
        Ok(())
    }

    fn same(&self, dir: BorrowedFd<'_>, base: BorrowedFd<'_>, name: &CStr) -> SysResult<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |dir| rustix::fs::openat(dir, name, flags, Mode::empty());
        let (new, old) = match (open(dir), open(base)) {
            (Ok(new), Ok(old)) => (new, old),
            // A file its own owner cannot read is left as it is.
            (Err(Errno::ACCESS), _) | (_, Err(Errno::ACCESS)) => return Ok(false),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let same = same_attributes(&new, &old)?;
        Ok(same && (self.trust == Trust::Times || same_contents(new.as_fd(), old.as_fd())?))
    }

    fn claim(&self, base: &Meta, tree: &Meta) -> bool {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        base.nlink < 2 || *claims.entry(base.inode()).or_insert(tree.inode()) == tree.inode()
    }

    fn join(&self, meta: &Meta, older: &Meta, place: &Arc<Place>, name: &CStr) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let base = Some(older.inode());
        let group = groups.entry(meta.inode()).or_insert_with(|| Group {
            names: Vec::new(),
            meta: *meta,
            base,
        });
        group.names.push((place.clone(), name.to_owned()));
        if group.base != base {
            group.base = None;
        }
    }

    /// Shares the inodes with several names, of which every one was met and is the same as the base's.
    fn share_groups(&self) -> Result<(), Error> {
        let groups =
            std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner));
        for (inode, group) in groups {
            let whole = group.names.len() as u64 == group.meta.nlink;
            let Some(base) = group.base.filter(|_| whole) else { continue };
            let claimed = {
                let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
                *claims.entry(base).or_insert(inode) == inode
            };
            if claimed {
                self.share_group(&group)?;
            }
        }
        Ok(())
    }

    fn share_group(&self, group: &Group) -> Result<(), Error> {
        for (place, name) in &group.names {
            let (dir, base) = (self.tree.reopen(place)?, self.base.reopen(place)?);
            let times = Meta::of(&dir).map_err(|e| self.error("read", place, None, e))?;
            self.replace(dir.as_fd(), base.as_fd(), name, &group.meta)
                .map_err(|e| self.error("share", place, Some(name), e))?;
            self.restore(&dir, &times, place)?;
        }
        Ok(())
    }

    /// Puts a link to the base's `name` in the place of the tree's.
    fn replace(
        &self,
        dir: BorrowedFd<'_>,
        base: BorrowedFd<'_>,
        name: &CStr,
        meta: &Meta,
    ) -> SysResult<()> {
        let new = CString::new(format!(".obuild-share-{}", meta.ino)).unwrap_or_default();
        match rustix::fs::linkat(base, name, dir, &new, AtFlags::empty()) {
            Ok(()) => {}
            // The file has as many links as the filesystem allows, or may not be linked: the tree keeps its own.
            Err(Errno::MLINK | Errno::PERM | Errno::ACCESS | Errno::XDEV | Errno::EXIST) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = rustix::fs::renameat(dir, &new, dir, name) {
            let _ = rustix::fs::unlinkat(dir, &new, AtFlags::empty());
            return Err(error);
        }
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(meta.allocated, Ordering::Relaxed);
        Ok(())
    }

    fn restore(&self, dir: impl AsFd, meta: &Meta, place: &Place) -> Result<(), Error> {
        rustix::fs::futimens(dir, &meta.times())
            .map_err(|e| self.error("set the times of", place, None, e))
    }
}

impl Visitor for Sharer<'_> {
    type Dir = Side;

    fn open(&self, parent: &Side, name: &CStr, place: &Place) -> Result<Side, Error> {
        let base = parent.base.as_ref().and_then(|base| place::open_dir(base, name).ok());
        self.side(self.tree.child(&parent.tree, name, place)?, base, place)
    }

    fn reopen(&self, place: &Place) -> Result<Side, Error> {
        self.side(self.tree.reopen(place)?, self.base.reopen(place).ok(), place)
    }

    fn listed<'a>(&self, dir: &'a Side) -> BorrowedFd<'a> {
        dir.tree.as_fd()
    }

    fn visit(&self, dir: &Side, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        let Some(base) = &dir.base else { return Ok(()) };
        for entry in entries.iter().filter(|entry| entry.kind == FileType::RegularFile) {
            self.file((dir.tree.as_fd(), base.as_fd()), place, &entry.name)
                .map_err(|e| self.error("share", place, Some(&entry.name), e))?;
        }
        Ok(())
    }

    fn finish(&self, dir: &Side, place: &Place) -> Result<(), Error> {
        let now = Meta::of(&dir.tree).map_err(|e| self.error("read", place, None, e))?;
        if now.mtime == dir.meta.mtime { Ok(()) } else { self.restore(&dir.tree, &dir.meta, place) }
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> PathBuf {
        self.tree.path(place, name)
    }
}
