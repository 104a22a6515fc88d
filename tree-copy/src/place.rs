//! Where a directory lies in a tree: a chain of names up to the tree's root.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Result;

/// A directory of a tree, by its names from the root on. Holds no descriptor.
#[derive(Debug, Default)]
pub(crate) struct Place {
    step: Option<(Arc<Place>, CString)>,
    depth: usize,
}

impl Place {
    /// The tree's own root.
    pub(crate) fn root() -> Arc<Self> {
        Arc::default()
    }

    /// The directory `name` in this one.
    pub(crate) fn child(self: &Arc<Self>, name: &CStr) -> Arc<Self> {
        Arc::new(Self { step: Some((self.clone(), name.to_owned())), depth: self.depth + 1 })
    }

    /// The name in its parent; `None` for the root.
    pub(crate) fn name(&self) -> Option<&CStr> {
        self.step.as_ref().map(|(_, name)| name.as_c_str())
    }

    /// Names from the root down.
    pub(crate) fn names(&self) -> Vec<&CStr> {
        let mut names = Vec::with_capacity(self.depth);
        let mut at = self;
        while let Some((parent, name)) = &at.step {
            names.push(name.as_c_str());
            at = parent;
        }
        names.reverse();
        names
    }

    /// Path of `name` (of the directory itself when `None`) below `root`.
    pub(crate) fn path(&self, root: &Path, name: Option<&CStr>) -> PathBuf {
        let mut path = root.to_owned();
        path.extend(self.names().into_iter().chain(name).map(os));
        path
    }

    /// The names in one piece, each ending in a zero byte: what sorts a directory before all that is in it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.names().iter().flat_map(|name| name.to_bytes_with_nul().iter().copied()).collect()
    }

    /// The place whose [`Place::bytes`] are `bytes`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Arc<Self> {
        let names = bytes.split_inclusive(|byte| *byte == 0);
        let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
        names.fold(Self::root(), |place, name| place.child(name))
    }

    /// Opens the directory by going down from `root`.
    pub(crate) fn open_from(&self, root: impl AsFd) -> Result<OwnedFd> {
        let mut at = open_dir(root, c".")?;
        for name in self.names() {
            at = open_dir(&at, name)?;
        }
        Ok(at)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A chain of thousands of places must not be dropped by recursion.
        let mut next = self.step.take();
        while let Some((parent, _)) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.step.take());
        }
    }
}

/// A name as the operating system's string.
pub(crate) fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// Opens the directory `name` in `dir`, never through a link.
pub(crate) fn open_dir(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens the root of a tree, which must not be a link.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}
