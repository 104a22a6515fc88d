//! What must be done to a tree in a known state to make it a copy of another snapshot.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use crate::draft::attributes_hash;
use crate::error::Error;
use crate::index::{Block, Index};
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::record::Record;
use crate::walk::{Inspect, Root, walk};

/// The differences between a tree and a snapshot, for [`bring_tree`](crate::bring_tree).
#[derive(Debug, Default)]
pub struct Plan {
    /// Directories of the snapshot with something to do, each before those in it.
    pub(crate) changed: Vec<DirPlan>,
    /// Paths of the others.
    pub(crate) kept: Vec<Vec<u8>>,
}

/// What must be done in one directory.
#[derive(Debug, Default)]
pub(crate) struct DirPlan {
    pub(crate) path: Vec<u8>,
    pub(crate) remove: Vec<CString>,
    /// Taken from the snapshot; a directory is made empty.
    pub(crate) take: Vec<Wanted>,
}

/// An entry of the snapshot that the tree lacks.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
    pub(crate) inode: u64,
}

impl Plan {
    /// How many entries must be removed, copied or set right.
    pub fn cost(&self) -> u64 {
        self.changed.iter().map(|dir| (1 + dir.remove.len() + dir.take.len()) as u64).sum()
    }
}

/// Compares the tree that `index` knows with `snapshot`, whose entries are listed but neither read nor asked for their stat.
///
/// The snapshot that the index was taken with must still be there, or its inodes would mean something else.
pub fn plan_change(index: &Index, snapshot: &Path) -> Result<Plan, Error> {
    let root = Root::open(snapshot)?;
    let failed = |e| root.error("read", &Place::root(), None, e);
    let home = Meta::of(root.fd()).map_err(failed)?.dev;
    let planner = Planner { root, index, home, plan: Mutex::default(), seen: Mutex::default() };
    walk(&planner, planner.root.start()?, queue::default_threads())?;
    let mut plan = planner.plan.into_inner().unwrap_or_else(PoisonError::into_inner);
    plan.changed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(plan)
}

struct Planner<'a> {
    root: Root<'a>,
    index: &'a Index,
    home: u64,
    plan: Mutex<Plan>,
    /// Entries of directories that come in several pieces.
    seen: Mutex<Vec<(Vec<u8>, Vec<Wanted>)>>,
}

impl Planner<'_> {
    fn compare(&self, block: &Block<'_>, mut entries: Vec<Wanted>, believed: bool) -> DirPlan {
        let mut plan = DirPlan::default();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for (name, old) in block.entries() {
            let same =
                entries.binary_search_by(|entry| entry.name.to_bytes().cmp(name)).is_ok_and(|at| {
                    let new = &entries[at];
                    let one = old.twin != 0 && old.twin == new.inode && believed && old.at_home;
                    new.kind == old.kind && (old.is_dir() || one)
                });
            if !same {
                plan.remove.extend(CString::new(name));
            }
        }
        let removed = &plan.remove;
        entries.retain(|entry| {
            removed.binary_search(&entry.name).is_ok() || block.get(entry.name.to_bytes()).is_none()
        });
        plan.take = entries;
        plan
    }
}

impl Inspect for Planner<'_> {
    fn root(&self) -> &Root<'_> {
        &self.root
    }

    fn visit(&self, _dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        let wanted = |entry: &Entry| Wanted {
            name: entry.name.clone(),
            kind: entry.kind,
            inode: entry.inode,
        };
        let piece = (place.bytes(), entries.iter().map(wanted).collect());
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
        Ok(())
    }

    fn finish(&self, dir: &OwnedFd, place: &Place) -> Result<(), Error> {
        let path = place.bytes();
        let mut entries = Vec::new();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|(of, piece)| {
            let ours = *of == path;
            if ours {
                entries.append(piece);
            }
            !ours
        });
        let failed = |e| self.error("read", place, None, e);
        let meta = Meta::of(dir).map_err(failed)?;
        let hash = attributes_hash(dir).map_err(failed)?;
        let own = Record::new(&meta, self.home, hash);
        let (plan, same) = match self.index.dir(&path) {
            None => (DirPlan { take: entries, ..DirPlan::default() }, false),
            Some(block) => {
                let plan = self.compare(&block, entries, own.at_home);
                let same = plan.remove.is_empty() && plan.take.is_empty();
                (plan, same && block.own().is_like_dir(&own))
            }
        };
        let mut all = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if same {
            all.kept.push(path);
        } else {
            all.changed.push(DirPlan { path, ..plan });
        }
        Ok(())
    }
}
