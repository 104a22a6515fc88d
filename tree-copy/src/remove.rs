//! Removes a directory tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::{Errno, Result};

use crate::listing;
use crate::place;
use crate::platform;
use crate::queue::{self, Queue};

/// Directories deeper than this are moved up to the root of the tree before they are emptied, so that no more
/// descriptors are open than this for each thread.
const DEEPEST: usize = 64;

/// How many things that would not go are named.
const NAMED: usize = 16;

/// Some of a tree would not go.
#[derive(Debug, thiserror::Error)]
#[error("failed to remove `{}`{}", .first.display(), others(*.count))]
pub struct NotRemoved {
    /// The first that would not go.
    pub first: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
    /// The first few that would not go, with the first.
    pub named: Vec<PathBuf>,
    /// How many would not go, counting neither their parents nor what they hold.
    pub count: usize,
}

fn others(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}

/// Removes `path` and everything below it; that it is not there is fine.
///
/// Directories that their owner may not write are made writable first. Links are removed, never followed. What
/// will not go does not keep the rest: all that can go is gone when this returns.
pub fn remove_tree(path: &Path) -> std::result::Result<(), NotRemoved> {
    let failed = Failures { root: path, all: Mutex::default() };
    match removed_as_file(path) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => return failed.with(path.to_owned(), error).into_result(),
    }
    match Dir::open(CWD.as_fd(), &c_path(path), None) {
        Ok(root) => empty(Arc::new(root), &failed),
        Err(error) => failed.add(path.to_owned(), error),
    }
    failed.into_result()
}

/// Tries the cheap call first: it says whether this is a directory with something in it.
fn removed_as_file(path: &Path) -> Result<bool> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(error) => Err(error),
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// A directory being emptied.
struct Dir {
    fd: OwnedFd,
    name: CString,
    parent: Option<Arc<Dir>>,
    depth: usize,
    /// Children not yet gone, and one for its own listing.
    left: AtomicUsize,
}

impl Dir {
    fn open(parent_fd: impl AsFd, name: &CStr, parent: Option<&Arc<Self>>) -> Result<Self> {
        let parent_fd = parent_fd.as_fd();
        let fd = match place::open_dir(parent_fd, name) {
            Err(Errno::ACCESS) => {
                if let Some(parent) = parent {
                    rustix::fs::fchmod(&parent.fd, Mode::RWXU)?;
                }
                platform::make_traversable(parent_fd, name)?;
                place::open_dir(parent_fd, name)?
            }
            opened => opened?,
        };
        let depth = parent.map_or(0, |parent| parent.depth + 1);
        let left = AtomicUsize::new(1);
        Ok(Self { fd, name: name.to_owned(), parent: parent.cloned(), depth, left })
    }

    fn path(&self, root: &Path, name: Option<&CStr>) -> PathBuf {
        let mut names: Vec<_> = name.into_iter().collect();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(&at.name);
            at = parent;
        }
        let mut path = root.to_owned();
        path.extend(names.into_iter().rev().map(place::os));
        path
    }

    /// Calls `change` on this directory, once more with the directory made writable if it was not.
    fn writing<T>(&self, change: impl Fn() -> Result<T>) -> Result<T> {
        match change() {
            Err(Errno::ACCESS) => {
                rustix::fs::fchmod(&self.fd, Mode::RWXU)?;
                change()
            }
            done => done,
        }
    }
}

struct Failures<'a> {
    root: &'a Path,
    all: Mutex<(Vec<(PathBuf, Errno)>, usize)>,
}

impl Failures<'_> {
    fn add(&self, path: PathBuf, error: Errno) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.1 += 1;
        if all.0.len() < NAMED {
            all.0.push((path, error));
        }
    }

    fn with(self, path: PathBuf, error: Errno) -> Self {
        self.add(path, error);
        self
    }

    fn into_result(self) -> std::result::Result<(), NotRemoved> {
        let (all, count) = self.all.into_inner().unwrap_or_else(PoisonError::into_inner);
        let named = all.iter().map(|(path, _)| path.clone()).collect();
        match all.into_iter().next() {
            None => Ok(()),
            Some((first, error)) => Err(NotRemoved { first, source: error.into(), named, count }),
        }
    }
}

/// A directory to empty: the root, which is open, or one to open.
enum Job {
    List(Arc<Dir>),
    Enter(Arc<Dir>, CString),
}

fn empty(root: Arc<Dir>, failed: &Failures<'_>) {
    let moved = AtomicUsize::new(0);
    let top = root.clone();
    queue::run(queue::default_threads(), Job::List(root), |job, queue| match job {
        Job::List(dir) => list(dir, queue, failed),
        Job::Enter(parent, name) => {
            let (parent, name) = lifted(parent, name, &top, &moved, failed);
            match Dir::open(&parent.fd, &name, Some(&parent)) {
                Ok(dir) => list(Arc::new(dir), queue, failed),
                Err(Errno::NOENT) => gone(parent, failed),
                // Its parents cannot go either, and nothing more is said of them.
                Err(error) => failed.add(parent.path(failed.root, Some(&name)), error),
            }
        }
    });
}

/// Moves a directory that lies too deep to the top of the tree; returns where it lies then.
fn lifted(
    parent: Arc<Dir>,
    name: CString,
    top: &Arc<Dir>,
    moved: &AtomicUsize,
    failed: &Failures<'_>,
) -> (Arc<Dir>, CString) {
    if parent.depth < DEEPEST {
        return (parent, name);
    }
    let number = moved.fetch_add(1, Ordering::Relaxed);
    let Ok(new) = CString::new(format!(".lifted-{}-{number}", std::process::id())) else {
        return (parent, name);
    };
    // A directory that its owner may not write cannot be moved to another parent.
    let _ = place::open_dir(&parent.fd, &name).and_then(|fd| rustix::fs::fchmod(fd, Mode::RWXU));
    let rename = || rustix::fs::renameat(&parent.fd, &name, &top.fd, &new);
    match parent.writing(|| top.writing(rename)) {
        Ok(()) => {
            top.left.fetch_add(1, Ordering::AcqRel);
            gone(parent, failed);
            (top.clone(), new)
        }
        Err(_) => (parent, name),
    }
}

fn list(dir: Arc<Dir>, queue: &Queue<Job>, failed: &Failures<'_>) {
    let entries = match dir.writing(|| listing::entries(&dir.fd)) {
        Ok(entries) => entries,
        Err(error) => return failed.add(dir.path(failed.root, None), error),
    };
    let (dirs, files): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| entry.kind == FileType::Directory);
    let mut stuck = 0;
    for file in files {
        let unlink = || rustix::fs::unlinkat(&dir.fd, &file.name, AtFlags::empty());
        match dir.writing(unlink) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                stuck += 1;
                failed.add(dir.path(failed.root, Some(&file.name)), error);
            }
        }
    }
    dir.left.fetch_add(dirs.len() + stuck, Ordering::AcqRel);
    if !dirs.is_empty() {
        queue.extend(dirs.into_iter().map(|entry| Job::Enter(dir.clone(), entry.name)));
    }
    gone(dir, failed);
}

/// One thing less in `dir`; removes it, and its parents, once nothing is left in them.
fn gone(mut dir: Arc<Dir>, failed: &Failures<'_>) {
    while dir.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        let parent = dir.parent.clone();
        let removed = match &parent {
            Some(parent) => {
                parent.writing(|| rustix::fs::unlinkat(&parent.fd, &dir.name, AtFlags::REMOVEDIR))
            }
            None => remove_root(&dir.name),
        };
        match (removed, parent) {
            (Ok(()) | Err(Errno::NOENT), Some(parent)) => dir = parent,
            (Ok(()) | Err(Errno::NOENT), None) => return,
            (Err(error), _) => return failed.add(dir.path(failed.root, None), error),
        }
    }
}

/// The directory around the tree is not ours to make writable.
fn remove_root(path: &CStr) -> Result<()> {
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
}
