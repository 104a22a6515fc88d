//! Takes the index of a tree that is a copy of another.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::draft::{Draft, Drafting, attributes_hash, record_at};
use crate::error::Error;
use crate::listing::{self, Entry};
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::record::Record;
use crate::walk::{Root, Visitor, walk};

/// Takes the index of `tree`, which is a faithful copy of `snapshot`. Nobody may change either meanwhile.
pub fn index_tree(tree: &Path, snapshot: &Path) -> Result<Draft, Error> {
    let scan = Scan::new(Root::open(tree)?, Root::open(snapshot)?)?;
    let first = scan.side(scan.tree.start()?, scan.snapshot.start()?, &Place::root())?;
    walk(&scan, first, queue::default_threads())?;
    Ok(scan.draft.finish())
}

/// The walk of [`index_tree`]; other operations use it for the directories they have changed.
pub(crate) struct Scan<'a> {
    tree: Root<'a>,
    snapshot: Root<'a>,
    home: u64,
    snapshot_home: u64,
    pub(crate) draft: Drafting,
}

/// A directory of the tree, and what the snapshot's is listed to hold.
pub(crate) struct Side {
    tree: OwnedFd,
    own: Record,
    twins: Twins,
    seen: Mutex<Vec<(CString, Record)>>,
}

/// Inodes of a snapshot's directory by their names.
pub(crate) struct Twins(Vec<Entry>);

impl Twins {
    /// Lists `dir`. On another volume than the snapshot's root inodes say nothing.
    pub(crate) fn of(dir: impl AsFd, home: u64) -> rustix::io::Result<Self> {
        if Meta::of(dir.as_fd())?.dev != home {
            return Ok(Self(Vec::new()));
        }
        let mut entries = listing::entries(dir)?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(entries))
    }

    /// The inode of `name`, 0 when there is none.
    pub(crate) fn get(&self, name: &CStr) -> u64 {
        let found = self.0.binary_search_by(|entry| entry.name.as_c_str().cmp(name));
        found.map_or(0, |at| self.0[at].inode)
    }
}

impl<'a> Scan<'a> {
    pub(crate) fn new(tree: Root<'a>, snapshot: Root<'a>) -> Result<Self, Error> {
        let failed = |root: &Root<'_>, source| Error::Io {
            action: "read",
            path: root.path(&Place::root(), None),
            source: std::io::Error::from(source),
        };
        let home = Meta::of(tree.fd()).map_err(|e| failed(&tree, e))?.dev;
        let snapshot_home = Meta::of(snapshot.fd()).map_err(|e| failed(&snapshot, e))?.dev;
        Ok(Self { tree, snapshot, home, snapshot_home, draft: Drafting::default() })
    }

    fn side(&self, tree: OwnedFd, snapshot: OwnedFd, place: &Place) -> Result<Side, Error> {
        let failed = |e| self.error("read", place, None, e);
        let twins = Twins::of(&snapshot, self.snapshot_home).map_err(failed)?;
        let hash = attributes_hash(&tree).map_err(failed)?;
        let own = Record::new(&Meta::of(&tree).map_err(failed)?, self.home, hash);
        Ok(Side { tree, own, twins, seen: Mutex::default() })
    }

    /// Takes one directory, without those in it.
    pub(crate) fn one(&self, place: &Arc<Place>) -> Result<(), Error> {
        let dir = self.reopen(place)?;
        let entries =
            listing::entries(&dir.tree).map_err(|e| self.error("list", place, None, e))?;
        self.visit(&dir, place, &entries)?;
        self.finish(&dir, place)
    }
}

impl Visitor for Scan<'_> {
    type Dir = Side;

    fn open(&self, parent: &Side, name: &CStr, place: &Place) -> Result<Side, Error> {
        let tree = self.tree.child(&parent.tree, name, place)?;
        self.side(tree, self.snapshot.reopen(place)?, place)
    }

    fn reopen(&self, place: &Place) -> Result<Side, Error> {
        self.side(self.tree.reopen(place)?, self.snapshot.reopen(place)?, place)
    }

    fn listed<'a>(&self, dir: &'a Side) -> BorrowedFd<'a> {
        dir.tree.as_fd()
    }

    fn visit(&self, dir: &Side, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        let mut seen = Vec::with_capacity(entries.len());
        for Entry { name, .. } in entries {
            let record = record_at(&dir.tree, name, self.home, dir.twins.get(name))
                .map_err(|e| self.error("read", place, Some(name), e))?;
            seen.push((name.clone(), record));
        }
        dir.seen.lock().unwrap_or_else(PoisonError::into_inner).append(&mut seen);
        Ok(())
    }

    fn finish(&self, dir: &Side, place: &Place) -> Result<(), Error> {
        let mut seen = dir.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.draft.add(&place.bytes(), &dir.own, &mut seen);
        Ok(())
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> PathBuf {
        self.tree.path(place, name)
    }
}
