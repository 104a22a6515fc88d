//! Visits every directory of a tree, several at once, with a bounded number of open descriptors.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use crate::error::Error;
use crate::listing::{self, Entry};
use crate::place::{self, Place};
use crate::queue::{self, Queue};

/// Entries of a large directory are handed out in pieces of this size.
const CHUNK: usize = 256;

/// How many directories may stay open for children still waiting. Children of others are opened from the root again.
const MOST_OPEN: usize = 64;

/// What is done in each directory of a tree.
pub(crate) trait Visitor: Sync {
    /// What is open for one directory.
    type Dir: Send + Sync;

    /// Opens the directory `name` of `parent`, which lies at `place`.
    fn open(&self, parent: &Self::Dir, name: &CStr, place: &Place) -> Result<Self::Dir, Error>;

    /// Opens the directory at `place` from the root down.
    fn reopen(&self, place: &Place) -> Result<Self::Dir, Error>;

    /// The descriptor that lists the directory.
    fn listed<'a>(&self, dir: &'a Self::Dir) -> BorrowedFd<'a>;

    /// Sees some of the entries of a directory. Directories among them are entered afterwards.
    fn visit(&self, dir: &Self::Dir, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error>;

    /// Called after the last [`Visitor::visit`] of a directory; its children may still be under way.
    fn finish(&self, _dir: &Self::Dir, _place: &Place) -> Result<(), Error> {
        Ok(())
    }

    /// Path of an entry for messages.
    fn path(&self, place: &Place, name: Option<&CStr>) -> std::path::PathBuf;

    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }

    /// The error of failing to `action` the entry `name`.
    fn error(
        &self,
        action: &'static str,
        place: &Place,
        name: Option<&CStr>,
        source: impl Into<std::io::Error>,
    ) -> Error {
        Error::Io { action, path: self.path(place, name), source: source.into() }
    }
}

struct Open<D> {
    dir: D,
    place: Arc<Place>,
    /// Pieces of the listing not yet visited.
    left: AtomicUsize,
    open: Arc<AtomicUsize>,
}

impl<D> Open<D> {
    fn new(dir: D, place: Arc<Place>, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self { dir, place, left: AtomicUsize::new(0), open: open.clone() }
    }
}

impl<D> Drop for Open<D> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Job<D> {
    Root(D),
    Enter { place: Arc<Place>, parent: Option<Arc<Open<D>>> },
    Visit { dir: Arc<Open<D>>, entries: Vec<Entry> },
}

/// Walks the tree below `root` with at most `threads` threads; the first error ends it.
pub(crate) fn walk<V: Visitor>(visitor: &V, root: V::Dir, threads: usize) -> Result<(), Error> {
    let failed = Mutex::new(None);
    let open = Arc::new(AtomicUsize::new(0));
    queue::run(threads, Job::Root(root), |job, queue| {
        let done = match job {
            _ if visitor.cancelled() => Err(Error::Cancelled),
            Job::Root(dir) => list(visitor, queue, Open::new(dir, Place::root(), &open)),
            Job::Enter { place, parent } => {
                enter(visitor, place, parent, &open).and_then(|dir| list(visitor, queue, dir))
            }
            Job::Visit { dir, entries } => visit(visitor, queue, &dir, &entries),
        };
        if let Err(error) = done {
            queue.stop();
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn enter<V: Visitor>(
    visitor: &V,
    place: Arc<Place>,
    parent: Option<Arc<Open<V::Dir>>>,
    open: &Arc<AtomicUsize>,
) -> Result<Open<V::Dir>, Error> {
    let dir = match (parent, place.name()) {
        (Some(parent), Some(name)) => visitor.open(&parent.dir, name, &place)?,
        _ => visitor.reopen(&place)?,
    };
    Ok(Open::new(dir, place, open))
}

fn list<V: Visitor>(
    visitor: &V,
    queue: &Queue<Job<V::Dir>>,
    dir: Open<V::Dir>,
) -> Result<(), Error> {
    let mut entries = listing::entries(visitor.listed(&dir.dir))
        .map_err(|e| visitor.error("list", &dir.place, None, e))?;
    let dir = Arc::new(dir);
    dir.left.store(entries.len().div_ceil(CHUNK).max(1), Ordering::Release);
    while entries.len() > CHUNK {
        let entries = entries.split_off(entries.len() - CHUNK);
        queue.push(Job::Visit { dir: dir.clone(), entries });
    }
    visit(visitor, queue, &dir, &entries)
}

fn visit<V: Visitor>(
    visitor: &V,
    queue: &Queue<Job<V::Dir>>,
    dir: &Arc<Open<V::Dir>>,
    entries: &[Entry],
) -> Result<(), Error> {
    visitor.visit(&dir.dir, &dir.place, entries)?;
    if dir.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        visitor.finish(&dir.dir, &dir.place)?;
    }
    let mut jobs: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind == FileType::Directory)
        .map(|entry| Job::Enter { place: dir.place.child(&entry.name), parent: Some(dir.clone()) })
        .collect();
    if dir.open.load(Ordering::Relaxed) > MOST_OPEN {
        // Only the child that is entered next keeps this directory open.
        for job in jobs.iter_mut().rev().skip(1) {
            if let Job::Enter { parent, .. } = job {
                *parent = None;
            }
        }
    }
    if !jobs.is_empty() {
        queue.extend(jobs);
    }
    Ok(())
}

/// A [`Visitor`] that needs nothing of a directory but its descriptor, opened below one root.
pub(crate) trait Inspect: Sync {
    /// The root of the tree.
    fn root(&self) -> &Root<'_>;

    /// See [`Visitor::visit`].
    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error>;

    /// See [`Visitor::finish`].
    fn finish(&self, _dir: &OwnedFd, _place: &Place) -> Result<(), Error> {
        Ok(())
    }

    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }

    /// The error of failing to `action` the entry `name`.
    fn error(
        &self,
        action: &'static str,
        place: &Place,
        name: Option<&CStr>,
        source: impl Into<std::io::Error>,
    ) -> Error {
        self.root().error(action, place, name, source)
    }
}

impl<T: Inspect> Visitor for T {
    type Dir = OwnedFd;

    fn open(&self, parent: &OwnedFd, name: &CStr, place: &Place) -> Result<OwnedFd, Error> {
        self.root().child(parent, name, place)
    }

    fn reopen(&self, place: &Place) -> Result<OwnedFd, Error> {
        self.root().reopen(place)
    }

    fn listed<'a>(&self, dir: &'a OwnedFd) -> BorrowedFd<'a> {
        dir.as_fd()
    }

    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        Inspect::visit(self, dir, place, entries)
    }

    fn finish(&self, dir: &OwnedFd, place: &Place) -> Result<(), Error> {
        Inspect::finish(self, dir, place)
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> std::path::PathBuf {
        self.root().path(place, name)
    }

    fn cancelled(&self) -> bool {
        Inspect::cancelled(self)
    }
}

/// The root of a tree that is only looked at, for visitors to build on.
pub(crate) struct Root<'a> {
    path: &'a Path,
    fd: OwnedFd,
}

impl<'a> Root<'a> {
    /// Opens `path`, which must be a directory and not a link.
    pub(crate) fn open(path: &'a Path) -> Result<Self, Error> {
        let fd = place::open_root(path).map_err(|source| Error::Io {
            action: "open",
            path: path.to_owned(),
            source: source.into(),
        })?;
        Ok(Self { path, fd })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A descriptor for the walk to begin with.
    pub(crate) fn start(&self) -> Result<OwnedFd, Error> {
        self.reopen(&Place::root())
    }

    pub(crate) fn reopen(&self, place: &Place) -> Result<OwnedFd, Error> {
        place.open_from(&self.fd).map_err(|e| self.error("open", place, None, e))
    }

    pub(crate) fn child(
        &self,
        parent: impl AsFd,
        name: &CStr,
        place: &Place,
    ) -> Result<OwnedFd, Error> {
        place::open_dir(parent, name).map_err(|e| self.error("open", place, None, e))
    }

    pub(crate) fn path(&self, place: &Place, name: Option<&CStr>) -> std::path::PathBuf {
        place.path(self.path, name)
    }

    pub(crate) fn error(
        &self,
        action: &'static str,
        place: &Place,
        name: Option<&CStr>,
        source: impl Into<std::io::Error>,
    ) -> Error {
        Error::Io { action, path: self.path(place, name), source: source.into() }
    }
}
