//! Makes the snapshot of a tree by one walk: what nobody has touched since the snapshot before is linked to that, the rest is
//! copied.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result as SysResult};

use crate::attributes::same_attributes;
use crate::contents::same_contents;
use crate::copy::{Copied, Copier, Options, Pair};
use crate::draft::{Draft, Drafting, attributes_hash};
use crate::error::Error;
use crate::index::{Block, Index};
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::record::{Moment, Record};
use crate::share::Trust;
use crate::walk::{Root, Visitor, walk};

/// The last known state of a tree.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Taken when the tree was the same as `snapshot`.
    pub index: &'a Index,
    /// What the tree was then. Nobody may ever write to it again.
    pub snapshot: &'a Path,
    /// Entries with a ctime of this moment or later may have been changed without showing it.
    pub trusted_before: Moment,
    /// When an entry counts as the same that was touched but has the same size, time, mode and owner.
    pub trust: Trust,
}

/// What [`snapshot_tree`] did.
#[derive(Debug)]
pub struct Snapped {
    /// The tree's index now, with the inodes of the new snapshot.
    pub draft: Draft,
    /// Entries that are hard links to the snapshot before.
    pub linked: u64,
    /// What became of the others.
    pub copied: Copied,
}

/// Makes the snapshot `to`, a new directory or an empty one, of `tree`. It shares no inode with `tree`. Nobody may change
/// `tree` meanwhile.
///
/// Which names share an inode with each other is the same in both. What is left out or cannot be kept is as for
/// [`copy_tree`](crate::copy_tree). An error leaves `to` half made.
pub fn snapshot_tree(
    tree: &Path,
    to: &Path,
    known: &Known<'_>,
    options: &Options<'_>,
) -> Result<Snapped, Error> {
    let snapper = Snapper {
        copier: Copier::new(tree, to, options)?,
        home: Root::open(tree).and_then(|root| {
            let meta = Meta::of(root.fd());
            meta.map(|meta| meta.dev).map_err(|source| Error::Io {
                action: "read",
                path: tree.to_owned(),
                source: source.into(),
            })
        })?,
        base: Root::open(known.snapshot)?,
        known: *known,
        draft: Drafting::default(),
        linked: AtomicU64::new(0),
    };
    let first = snapper.reopen(&Place::root())?;
    walk(&snapper, first, options.threads.unwrap_or_else(queue::threads_that_wait))?;
    let linked = snapper.linked.into_inner();
    let copied = snapper.copier.tally.into_report();
    Ok(Snapped { draft: snapper.draft.finish(), linked, copied })
}

struct Snapper<'a> {
    copier: Copier<'a>,
    /// The volume that the tree lies on.
    home: u64,
    base: Root<'a>,
    known: Known<'a>,
    draft: Drafting,
    linked: AtomicU64,
}

/// A directory of the tree with its copy, and what is known of it.
struct Side<'a> {
    pair: Pair,
    base: Option<OwnedFd>,
    block: Option<Block<'a>>,
    seen: Mutex<Vec<(CString, Record)>>,
}

impl<'a> Snapper<'a> {
    fn side(&self, pair: Pair, place: &Place, base: Option<OwnedFd>) -> Side<'a> {
        let block = base.as_ref().and_then(|_| self.known.index.dir(&place.bytes()));
        Side { pair, base, block, seen: Mutex::default() }
    }

    fn entry(&self, dir: &Side<'_>, place: &Arc<Place>, entry: &Entry) -> Result<Record, Error> {
        let name = entry.name.as_c_str();
        let failed = |e| self.error("read", place, Some(name), e);
        let meta = Meta::at(&dir.pair.from, name).map_err(failed)?;
        let mut now = Record::new(&meta, self.home, 0);
        if now.is_dir() {
            let error = |e| self.copier.to_error("create", place, Some(name), e);
            rustix::fs::mkdirat(&dir.pair.to, name, Mode::RWXU).map_err(error)?;
            return Ok(now);
        }
        let old = dir.block.and_then(|block| block.get(name.to_bytes()));
        let linked = Cell::new(false);
        self.copier.once_per_inode(&dir.pair, place, name, &meta, || {
            linked.set(self.link(dir, name, &now, old.as_ref()).map_err(failed)?);
            if linked.get() {
                self.linked.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            self.copier.copy_alone(&dir.pair, place, name, &meta)
        })?;
        now.twin = match old.filter(|_| linked.get()) {
            Some(old) => old.twin,
            None => match Meta::at(&dir.pair.to, name) {
                Ok(made) => made.ino,
                // A socket, which was left out.
                Err(Errno::NOENT) => 0,
                Err(error) => return Err(failed(error)),
            },
        };
        Ok(now)
    }

    /// Links the snapshot's entry to that of the snapshot before, if it is the same; says whether it did.
    fn link(
        &self,
        dir: &Side<'_>,
        name: &CStr,
        now: &Record,
        old: Option<&Record>,
    ) -> SysResult<bool> {
        let (Some(old), Some(base)) = (old, &dir.base) else { return Ok(false) };
        let sure = old.is_untouched(now) && old.ctime < self.known.trusted_before;
        let compare = || self.is_same(dir.pair.from.as_fd(), base.as_fd(), name);
        let same = sure || (old.lends_its_twin(now) && compare()?);
        if !same {
            return Ok(false);
        }
        match rustix::fs::linkat(base, name, &dir.pair.to, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // The file has as many links as the filesystem allows, or may not be linked: the snapshot gets its own.
            Err(
                Errno::MLINK
                | Errno::PERM
                | Errno::ACCESS
                | Errno::XDEV
                | Errno::NOTSUP
                | Errno::NOSYS
                | Errno::NOENT,
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a file that was touched is the same as it was in the snapshot before, in every respect.
    fn is_same(&self, dir: BorrowedFd<'_>, base: BorrowedFd<'_>, name: &CStr) -> SysResult<bool> {
        let like = |m: &Meta| (m.kind, m.mode, m.uid, m.gid, m.size, m.mtime);
        let (now, then) = (Meta::at(dir, name)?, Meta::at(base, name));
        let alike = then.is_ok_and(|then| like(&then) == like(&now));
        if !alike || now.kind != FileType::RegularFile {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |dir| rustix::fs::openat(dir, name, flags, Mode::empty());
        let (new, old) = match (open(dir), open(base)) {
            (Ok(new), Ok(old)) => (new, old),
            // A file its own owner cannot read is left to the copier.
            (Err(Errno::ACCESS), _) | (_, Err(Errno::ACCESS)) => return Ok(false),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let same = same_attributes(&new, &old)?;
        Ok(same && (self.known.trust == Trust::Times || same_contents(new.as_fd(), old.as_fd())?))
    }
}

impl<'a> Visitor for Snapper<'a> {
    type Dir = Side<'a>;

    fn open(&self, parent: &Side<'a>, name: &CStr, place: &Place) -> Result<Side<'a>, Error> {
        let pair = self.copier.open(&parent.pair, name, place)?;
        let base = parent.base.as_ref().and_then(|base| self.base.child(base, name, place).ok());
        Ok(self.side(pair, place, base))
    }

    fn reopen(&self, place: &Place) -> Result<Side<'a>, Error> {
        let pair = self.copier.reopen(place)?;
        Ok(self.side(pair, place, self.base.reopen(place).ok()))
    }

    fn listed<'b>(&self, dir: &'b Side<'a>) -> BorrowedFd<'b> {
        dir.pair.from.as_fd()
    }

    fn visit(&self, dir: &Side<'a>, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        let mut seen = Vec::with_capacity(entries.len());
        for entry in entries {
            if self.cancelled() {
                return Err(Error::Cancelled);
            }
            seen.push((entry.name.clone(), self.entry(dir, place, entry)?));
        }
        dir.seen.lock().unwrap_or_else(PoisonError::into_inner).append(&mut seen);
        Ok(())
    }

    fn finish(&self, dir: &Side<'a>, place: &Place) -> Result<(), Error> {
        self.copier.finish(&dir.pair, place)?;
        let hash =
            attributes_hash(&dir.pair.from).map_err(|e| self.error("read", place, None, e))?;
        let own = Record::new(&dir.pair.meta, self.home, hash);
        let mut seen = dir.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.draft.add(&place.bytes(), &own, &mut seen);
        Ok(())
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> PathBuf {
        self.copier.path(place, name)
    }

    fn cancelled(&self) -> bool {
        self.copier.cancelled()
    }
}
