//! Makes the snapshot of a tree by one walk: what nobody has touched since the snapshot before is linked to that, the rest is
//! copied.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result as SysResult};

use crate::attributes::same_attributes;
use crate::contents::same_contents;
use crate::copy::{Copied, Copier, Options, Pair};
use crate::draft::{Draft, Drafting, attributes_hash};
use crate::error::Error;
use crate::index::{Block, Index};
use crate::links::Turn;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::record::{Moment, Record};
use crate::remove::remove_tree;
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
    /// The new snapshot was begun with [`link_tree`](crate::link_tree) from `snapshot`.
    pub begun: bool,
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

/// Makes the snapshot `to` of `tree`; unless it was [begun](Known::begun), it is a new directory or an empty one. It shares no inode with `tree`. Nobody may change
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

/// A directory of the tree, and what is known of it. The others are opened when they are needed.
struct Side<'a> {
    tree: OwnedFd,
    meta: Meta,
    pair: OnceLock<Pair>,
    /// Held while the copy is opened.
    opening: Mutex<()>,
    base: OnceLock<Option<OwnedFd>>,
    block: Option<Block<'a>>,
    seen: Mutex<Vec<(CString, Record)>>,
}

impl<'a> Snapper<'a> {
    fn side(&self, tree: OwnedFd, place: &Place) -> Result<Side<'a>, Error> {
        let meta = Meta::of(&tree).map_err(|e| self.error("read", place, None, e))?;
        let (pair, base) = (OnceLock::new(), OnceLock::new());
        let block = self.known.index.dir(&place.bytes());
        let (opening, seen) = (Mutex::default(), Mutex::default());
        Ok(Side { tree, meta, pair, opening, base, block, seen })
    }

    /// The directory with its copy.
    fn pair<'s>(&self, dir: &'s Side<'a>, place: &Place) -> Result<&'s Pair, Error> {
        if let Some(pair) = dir.pair.get() {
            return Ok(pair);
        }
        let _alone = dir.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = dir.pair.get() {
            return Ok(pair);
        }
        let pair = self.copier.reopen(place)?;
        if self.known.begun {
            self.copier.open_up(&pair, place)?;
        }
        Ok(dir.pair.get_or_init(|| pair))
    }

    fn entry(&self, dir: &Side<'a>, place: &Arc<Place>, entry: &Entry) -> Result<Record, Error> {
        let name = entry.name.as_c_str();
        let failed = |e| self.error("read", place, Some(name), e);
        let meta = Meta::at(&dir.tree, name).map_err(failed)?;
        let mut now = Record::new(&meta, self.home, 0);
        let old = dir.block.and_then(|block| block.get(name.to_bytes()));
        if let Some(old) = old.filter(|_| self.known.begun) {
            if now.is_dir() && old.is_dir() {
                return Ok(now);
            }
            if self.is_sure(&old, &now)
                && (meta.nlink < 2 || self.joins(dir, place, name, &meta)?)
            {
                self.linked.fetch_add(1, Ordering::Relaxed);
                now.twin = old.twin;
                return Ok(now);
            }
            self.remove(dir, place, name)?;
        }
        let pair = self.pair(dir, place)?;
        if now.is_dir() {
            let error = |e| self.copier.to_error("create", place, Some(name), e);
            rustix::fs::mkdirat(&pair.to, name, Mode::RWXU).map_err(error)?;
            return Ok(now);
        }
        let linked = Cell::new(false);
        self.copier.once_per_inode(pair, place, name, &meta, || {
            let base = dir.base.get_or_init(|| self.base.reopen(place).ok());
            let both = old.as_ref().zip(base.as_ref());
            linked.set(self.link(pair, name, &now, both).map_err(failed)?);
            if linked.get() {
                self.linked.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            self.copier.copy_alone(pair, place, name, &meta)
        })?;
        now.twin = match old.filter(|_| linked.get()) {
            Some(old) => old.twin,
            None => match Meta::at(&pair.to, name) {
                Ok(made) => made.ino,
                // A socket, which was left out.
                Err(Errno::NOENT) => 0,
                Err(error) => return Err(failed(error)),
            },
        };
        Ok(now)
    }

    /// Whether an entry with several names that nobody has touched is, in a snapshot that was begun, one with those of its other
    /// names that were seen so far: these may have got there in a directory that was moved.
    fn joins(
        &self,
        dir: &Side<'a>,
        place: &Arc<Place>,
        name: &CStr,
        meta: &Meta,
    ) -> Result<bool, Error> {
        match self.copier.links.turn(meta.inode()) {
            Turn::Copy(maker) => {
                maker.made(place, name);
                Ok(true)
            }
            Turn::Link(first, first_name) => {
                let failed = |e| self.copier.to_error("read", place, Some(name), e);
                let first = self.copier.to.reopen(&first)?;
                let first = Meta::at(&first, &first_name).map_err(failed)?;
                let this = Meta::at(&self.pair(dir, place)?.to, name).map_err(failed)?;
                Ok(this.inode() == first.inode())
            }
            Turn::Failed => Ok(false),
        }
    }

    /// Whether an entry is what it was, as far as its stat tells, and that tells it all.
    fn is_sure(&self, old: &Record, now: &Record) -> bool {
        old.is_untouched(now) && old.ctime < self.known.trusted_before
    }

    /// Takes from a snapshot that was begun what the tree does not have any more.
    fn remove(&self, dir: &Side<'a>, place: &Place, name: &CStr) -> Result<(), Error> {
        let pair = self.pair(dir, place)?;
        match rustix::fs::unlinkat(&pair.to, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(self.copier.to_error("remove", place, Some(name), error)),
        }
        remove_tree(&self.copier.to.path(place, Some(name))).map_err(|stuck| Error::Io {
            action: "remove",
            path: stuck.first,
            source: stuck.source,
        })
    }

    /// The same for all that was in a directory and was not seen there.
    fn remove_unseen(
        &self,
        dir: &Side<'a>,
        place: &Place,
        seen: &mut [(CString, Record)],
    ) -> Result<(), Error> {
        seen.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, _) in dir.block.iter().flat_map(|block| block.entries()) {
            if seen.binary_search_by(|(seen, _)| seen.to_bytes().cmp(name)).is_err()
                && let Ok(name) = CString::new(name)
            {
                self.remove(dir, place, &name)?;
            }
        }
        Ok(())
    }

    /// Links the snapshot's entry to that of the snapshot before, if it is the same; says whether it did.
    fn link(
        &self,
        dir: &Pair,
        name: &CStr,
        now: &Record,
        before: Option<(&Record, &OwnedFd)>,
    ) -> SysResult<bool> {
        let Some((old, base)) = before else { return Ok(false) };
        let compare = || self.is_same(dir.from.as_fd(), base.as_fd(), name);
        let same = self.is_sure(old, now) || (old.lends_its_twin(now) && compare()?);
        if !same {
            return Ok(false);
        }
        match rustix::fs::linkat(base, name, &dir.to, name, AtFlags::empty()) {
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
        let side = self.side(self.copier.from.child(&parent.tree, name, place)?, place)?;
        if !self.known.begun
            && let Some(pair) = parent.pair.get()
        {
            let _ = side.pair.set(self.copier.open(pair, name, place)?);
        }
        if let Some(Some(base)) = parent.base.get() {
            let _ = side.base.set(self.base.child(base, name, place).ok());
        }
        Ok(side)
    }

    fn reopen(&self, place: &Place) -> Result<Side<'a>, Error> {
        self.side(self.copier.from.reopen(place)?, place)
    }

    fn listed<'b>(&self, dir: &'b Side<'a>) -> BorrowedFd<'b> {
        dir.tree.as_fd()
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
        let hash = attributes_hash(&dir.tree).map_err(|e| self.error("read", place, None, e))?;
        let own = Record::new(&dir.meta, self.home, hash);
        let mut seen = dir.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.known.begun {
            self.remove_unseen(dir, place, &mut seen)?;
        }
        let as_before = self.known.begun
            && dir.pair.get().is_none()
            && place.name().is_some()
            && dir.block.is_some_and(|block| block.own().is_like_dir(&own));
        if !as_before {
            self.copier.finish(self.pair(dir, place)?, place)?;
        }
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
