//! Copies a directory tree.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use crate::attributes::{self, Lost};
use crate::error::Error;
use crate::links::Links;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::{self, Place};
use crate::platform;
use crate::queue;
use crate::walk::{Root, Visitor, walk};

/// How the contents of files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum How {
    /// Byte by byte; holes stay holes.
    #[default]
    Copy,
    /// Shared and copied on write. A filesystem that cannot is an error.
    Reflink,
    /// As [`How::Reflink`] where the filesystem can, else as [`How::Copy`].
    TryReflink,
}

/// Who owns the copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// The owner of the original as far as the caller may give files away. Where it may not, a copy loses the setuid or
    /// setgid bit that would now mean someone else.
    #[default]
    Keep,
    /// The caller.
    Caller,
}

/// How [`copy_tree`] goes about it.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// How contents are copied.
    pub how: How,
    /// Who owns the copies.
    pub owners: Owners,
    /// Asked now and then, from any thread, whether to stop.
    pub cancel: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// At most so many threads; `None` for twice as many as there are processors, at most four.
    pub threads: Option<usize>,
}

/// What [`copy_tree`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, links, FIFOs and devices made.
    pub entries: u64,
    /// Bytes written; what was shared is not among them.
    pub bytes: u64,
    /// Files whose contents are shared and copied on write.
    pub cloned: u64,
    /// Sockets (and devices, where the caller may not make any), which were left out.
    pub skipped: Vec<PathBuf>,
    /// Entries whose owner could not be kept.
    pub lost_owners: u64,
    /// Entries of whose extended attributes or ACLs some could not be kept.
    pub lost_attributes: u64,
}

impl Copied {
    /// Whether nothing was left out or lost.
    pub fn is_faithful(&self) -> bool {
        self.skipped.is_empty() && self.lost_owners == 0 && self.lost_attributes == 0
    }
}

/// Copies the directory `from` with everything below it to `to`, which is made or is an empty directory.
///
/// Kept are hard links within the tree, symbolic links, holes, modes, owners, modification times, extended attributes
/// and ACLs, FIFOs, and devices where the caller may make them. Sockets are left out and reported. Neither path may
/// end in a symbolic link.
///
/// The first error ends it and leaves `to` half made; removing it is the caller's part. An entry that exists already is
/// an error; so is a `to` within `from`.
pub fn copy_tree(from: &Path, to: &Path, options: &Options<'_>) -> Result<Copied, Error> {
    let copier = Copier::new(from, to, options)?;
    let first = Pair::open(copier.from.start()?, copier.to.start()?);
    let first = first.map_err(|e| io("read", from, e))?;
    walk(&copier, first, options.threads.unwrap_or_else(queue::threads_that_wait))?;
    Ok(copier.tally.into_report())
}

pub(crate) struct Copier<'a> {
    pub(crate) from: Root<'a>,
    pub(crate) to: Root<'a>,
    /// The destination's own inode, not to be met in the source.
    within: (u64, u64),
    pub(crate) options: Options<'a>,
    pub(crate) links: Links,
    /// Whether contents are still worth trying to share.
    pub(crate) clone: AtomicBool,
    pub(crate) tally: Tally,
}

const OWNER_MAY_ALL: u32 = 0o700;

/// A directory and its copy.
pub(crate) struct Pair {
    pub(crate) from: OwnedFd,
    pub(crate) to: OwnedFd,
    pub(crate) meta: Meta,
}

impl Pair {
    pub(crate) fn open(from: OwnedFd, to: OwnedFd) -> rustix::io::Result<Self> {
        let meta = Meta::of(&from)?;
        Ok(Self { from, to, meta })
    }
}

/// Counts what is done.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) cloned: AtomicU64,
    lost_owners: AtomicU64,
    lost_attributes: AtomicU64,
    skipped: Mutex<Vec<PathBuf>>,
}

impl Tally {
    pub(crate) fn lost(&self, lost: Lost) {
        self.lost_owners.fetch_add(lost.owner.into(), Ordering::Relaxed);
        self.lost_attributes.fetch_add(lost.attributes.into(), Ordering::Relaxed);
    }

    pub(crate) fn skip(&self, path: PathBuf) {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    pub(crate) fn into_report(self) -> Copied {
        let mut skipped = self.skipped.into_inner().unwrap_or_else(PoisonError::into_inner);
        skipped.sort_unstable();
        Copied {
            entries: self.entries.into_inner(),
            bytes: self.bytes.into_inner(),
            cloned: self.cloned.into_inner(),
            skipped,
            lost_owners: self.lost_owners.into_inner(),
            lost_attributes: self.lost_attributes.into_inner(),
        }
    }
}

fn io(action: &'static str, path: &Path, source: Errno) -> Error {
    Error::Io { action, path: path.to_owned(), source: source.into() }
}

impl<'a> Copier<'a> {
    pub(crate) fn new(from: &'a Path, to: &'a Path, options: &Options<'a>) -> Result<Self, Error> {
        let from = Root::open(from)?;
        match rustix::fs::mkdirat(CWD, to, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io("create", to, error)),
        }
        let root = Root::open(to)?;
        let within = prepare_root(root.fd()).map_err(|e| io("prepare", to, e))?;
        let clone = AtomicBool::new(options.how != How::Copy);
        let (links, tally) = (Links::default(), Tally::default());
        Ok(Self { from, to: root, within, options: *options, links, clone, tally })
    }

    fn visit_entry(&self, dir: &Pair, place: &Arc<Place>, entry: &Entry) -> Result<(), Error> {
        if self.cancelled() {
            return Err(Error::Cancelled);
        }
        if entry.kind != FileType::Directory {
            return self.copy_entry(dir, place, entry);
        }
        rustix::fs::mkdirat(&dir.to, &entry.name, Mode::RWXU)
            .map_err(|e| self.to_error("create", place, Some(&entry.name), e))
    }

    /// The error of failing to `action` an entry of the copy.
    pub(crate) fn to_error(
        &self,
        action: &'static str,
        place: &Place,
        name: Option<&CStr>,
        source: Errno,
    ) -> Error {
        match source {
            Errno::CANCELED => Error::Cancelled,
            _ => Error::Io { action, path: self.to.path(place, name), source: source.into() },
        }
    }

    /// Lets the owner change a directory that was made earlier, and takes from it what would only be added to; all is set right at the end.
    pub(crate) fn open_up(&self, pair: &Pair, place: &Place) -> Result<(), Error> {
        let failed = |e| self.to_error("open", place, None, e);
        attributes::clear(pair.to.as_fd()).map_err(failed)?;
        let mode = Meta::of(&pair.to).map_err(failed)?.mode;
        if mode & OWNER_MAY_ALL == OWNER_MAY_ALL {
            return Ok(());
        }
        let mode = Mode::from_bits_retain((mode | OWNER_MAY_ALL) as _);
        rustix::fs::fchmod(&pair.to, mode).map_err(failed)
    }

    pub(crate) fn pair(&self, from: OwnedFd, to: OwnedFd, place: &Place) -> Result<Pair, Error> {
        let pair = Pair::open(from, to).map_err(|e| self.error("read", place, None, e))?;
        if pair.meta.inode() == self.within {
            return Err(Error::IntoItself(self.from.path(&Place::root(), None)));
        }
        Ok(pair)
    }
}

/// Takes from the copy's root what it inherited from the directory around it, which all below would inherit from it.
fn prepare_root(root: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    platform::forget_inherited(root)?;
    rustix::fs::fchmod(root, Mode::RWXU)?;
    Ok(Meta::of(root)?.inode())
}

impl Visitor for Copier<'_> {
    type Dir = Pair;

    fn open(&self, parent: &Pair, name: &CStr, place: &Place) -> Result<Pair, Error> {
        let from = self.from.child(&parent.from, name, place)?;
        let to = place::open_dir(&parent.to, name);
        self.pair(from, to.map_err(|e| self.to_error("open", place, None, e))?, place)
    }

    fn reopen(&self, place: &Place) -> Result<Pair, Error> {
        self.pair(self.from.reopen(place)?, self.to.reopen(place)?, place)
    }

    fn listed<'a>(&self, dir: &'a Pair) -> BorrowedFd<'a> {
        dir.from.as_fd()
    }

    fn visit(&self, dir: &Pair, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        entries.iter().try_for_each(|entry| self.visit_entry(dir, place, entry))
    }

    /// All names of the directory are made now, so its times will not change any more, and what is made below does not
    /// need its mode.
    fn finish(&self, dir: &Pair, place: &Place) -> Result<(), Error> {
        let (from, to) = (dir.from.as_fd(), dir.to.as_fd());
        let lost = attributes::copy_to_open(from, to, &dir.meta, self.options.owners)
            .map_err(|e| self.to_error("set the attributes of", place, None, e))?;
        self.tally.lost(lost);
        Ok(())
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> PathBuf {
        self.from.path(place, name)
    }

    fn cancelled(&self) -> bool {
        self.options.cancel.is_some_and(|cancel| cancel())
    }
}
