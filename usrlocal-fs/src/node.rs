//! A file or directory of one view, as the kernel knows it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fuser::{BackingId, FileType};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::meta::{Meta, Time};
use crate::os::handle::{Handle, LOOK};
use crate::view::View;

/// How deep a file is looked for again: deeper than a path can be long.
const DEEPEST: usize = 2048;

/// The number of the top directory, which is another node for every view.
pub(crate) const TOP: u64 = 1;

/// A file or directory of one view.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its number for the kernel, and the inode number that programs see.
    pub(crate) number: u64,
    pub(crate) view: Arc<View>,
    pub(crate) kind: FileType,
    /// When it was made, to tell it from another file that got its inode number.
    born: Option<Time>,
    handle: Handle,
    state: Mutex<State>,
}

/// What of a node changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// A descriptor kept for a directory.
    pub(crate) kept: Option<Arc<OwnedFd>>,
    /// A descriptor that a program has open: the way to a file that has no name any more.
    pub(crate) open: Weak<OwnedFd>,
    /// What the kernel reads and writes by itself, shared by all who have the file open.
    pub(crate) backing: Weak<BackingId>,
    /// Where it was found last, where there is no other way to find it again.
    pub(crate) place: Option<(Arc<Node>, CString)>,
    /// How many have the file open through us, not through `backing`; never both.
    pub(crate) plain: u32,
}

impl Node {
    /// The top directory of a view.
    pub(crate) fn top(view: Arc<View>) -> Result<Self> {
        let top = Arc::new(crate::os::special::duplicate(&view.top)?);
        let born = crate::os::meta::of_fd(top.as_fd())?.born;
        Ok(Self::of(view, TOP, FileType::Directory, born, Handle::Held(top)))
    }

    /// The node of a file.
    pub(crate) fn new(view: Arc<View>, number: u64, meta: &Meta, handle: Handle) -> Self {
        Self::of(view, number, meta.kind(), meta.born, handle)
    }

    fn of(
        view: Arc<View>,
        number: u64,
        kind: FileType,
        born: Option<Time>,
        handle: Handle,
    ) -> Self {
        Self { number, view, kind, born, handle, state: Mutex::default() }
    }

    /// Whether it is the top directory of its view.
    pub(crate) fn is_top(&self) -> bool {
        self.number == TOP
    }

    /// Whether the file with `meta` is still this one. Where the filesystem does not know when files were made, handles tell.
    pub(crate) fn is(&self, meta: &Meta, handle: impl FnOnce() -> Result<Handle>) -> Result<bool> {
        if meta.kind() != self.kind || meta.born != self.born {
            return Ok(false);
        }
        match meta.born {
            Some(_) => Ok(true),
            None => Ok(self.handle.same(&handle()?)),
        }
    }

    /// Whether both are the same file, as far as is known.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.born == other.born && {
            self.born.is_some() || self.handle.same(&other.handle)
        }
    }

    /// Tells the kernel an old inode from a new one of the same number.
    pub(crate) fn generation(&self) -> u64 {
        let mixed = match self.born {
            Some(born) => {
                (born.seconds as u64).wrapping_mul(1_000_003) ^ u64::from(born.nanoseconds)
            }
            None => self.handle.digest(),
        };
        mixed & 0x7fff_ffff
    }

    /// What of it changes.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was found as `name` in `parent`.
    pub(crate) fn found_at(&self, parent: &Arc<Self>, name: &CStr) {
        if self.handle.placed().is_none() {
            return;
        }
        let before = self.state().place.replace((parent.clone(), name.to_owned()));
        drop(before);
    }

    /// A descriptor to look at it or below it, kept from before.
    pub(crate) fn kept(&self) -> Option<Arc<OwnedFd>> {
        match &self.handle {
            Handle::Held(fd) => Some(fd.clone()),
            _ => self.state().kept.clone(),
        }
    }

    /// A new descriptor to look at it or below it.
    pub(crate) fn reach(&self) -> Result<Arc<OwnedFd>> {
        let opened = match self.handle.placed() {
            Some(file) => self.reach_at_place(file, 0),
            None => self.open_handle(&self.handle, LOOK).map(Arc::new),
        };
        match opened {
            Err(Errno::STALE) => self.state().open.upgrade().ok_or(Errno::STALE),
            result => result,
        }
    }

    /// Opens it to read or write.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        if self.handle.placed().is_some() {
            return self.open_handle(&Handle::Held(self.reach()?), flags);
        }
        match self.open_handle(&self.handle, flags) {
            Err(Errno::STALE) => {
                let open = self.state().open.upgrade().ok_or(Errno::STALE)?;
                self.open_handle(&Handle::Held(open), flags)
            }
            result => result,
        }
    }

    fn open_handle(&self, handle: &Handle, flags: OFlags) -> Result<OwnedFd> {
        handle.open(self.view.top.as_fd(), &self.view.anchors, flags)
    }

    /// Opens it where it was found last, if it is still there.
    fn reach_at_place(&self, file: (u64, u64), depth: usize) -> Result<Arc<OwnedFd>> {
        let place = self.state().place.clone();
        let (parent, name) = place.filter(|_| depth < DEEPEST).ok_or(Errno::STALE)?;
        let dir = match (parent.kept(), parent.handle.placed()) {
            (Some(dir), _) => dir,
            (None, Some(file)) => parent.reach_at_place(file, depth + 1)?,
            (None, None) => parent.reach()?,
        };
        let flags = LOOK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&dir, &name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Errno::STALE),
            result => result?,
        };
        let meta = crate::os::meta::of_fd(fd.as_fd())?;
        let same = (meta.device, meta.inode) == file && meta.kind() == self.kind;
        if same { Ok(Arc::new(fd)) } else { Err(Errno::STALE) }
    }
}
