//! A file or directory of one view, as the kernel knows it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fuser::{BackingId, FileType};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::meta::{Meta, Time};
use crate::os::handle::{Handle, LOOK};
use crate::view::View;

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

    /// A descriptor to look at it or below it, kept from before.
    pub(crate) fn kept(&self) -> Option<Arc<OwnedFd>> {
        match &self.handle {
            Handle::Held(fd) => Some(fd.clone()),
            Handle::Named { .. } => self.state().kept.clone(),
        }
    }

    /// A new descriptor to look at it or below it.
    pub(crate) fn reach(&self) -> Result<Arc<OwnedFd>> {
        match self.handle.open(self.view.top.as_fd(), LOOK) {
            Ok(fd) => Ok(Arc::new(fd)),
            Err(Errno::STALE) => self.state().open.upgrade().ok_or(Errno::STALE),
            Err(error) => Err(error),
        }
    }

    /// Opens it to read or write.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        match self.handle.open(self.view.top.as_fd(), flags) {
            Err(Errno::STALE) => {
                let open = self.state().open.upgrade().ok_or(Errno::STALE)?;
                Handle::Held(open).open(self.view.top.as_fd(), flags)
            }
            result => result,
        }
    }
}
