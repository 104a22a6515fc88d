//! The directory of symlinks `UID -> TREE`.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::meta::Time;
use crate::os;

/// Tells one link from every link that stood in its place before or stands there later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    inode: u64,
    changed: Time,
}

/// The scoreboard, held open.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    path: PathBuf,
    dir: OwnedFd,
}

impl Scoreboard {
    /// Opens the scoreboard at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = path.canonicalize().map_err(Error::path("find the scoreboard", path))?;
        let dir = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(Error::path("open the scoreboard", &path))?;
        Ok(Self { path, dir })
    }

    /// Which link `uid` has now.
    pub(crate) fn link(&self, uid: u32) -> rustix::io::Result<Option<Link>> {
        let name = CString::new(uid.to_string()).expect("digits hold no NUL");
        match os::meta::of_entry(self.dir.as_fd(), &name) {
            Ok(meta) => Ok(Some(Link { inode: meta.inode, changed: meta.changed })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the link of `uid` points; a relative one starts at the scoreboard.
    pub(crate) fn tree(&self, uid: u32) -> rustix::io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.dir, uid.to_string(), Vec::new())?;
        let target = OsString::from_vec(CString::into_bytes(target));
        Ok(self.path.join(target))
    }

    /// Points `uid` at `tree`, atomically, or at nothing.
    pub(crate) fn set(&self, uid: u32, tree: Option<&Path>) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = uid.to_string();
        let wrote = Error::path("write the entry of a user in", &self.path);
        let Some(tree) = tree else {
            return match rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(wrote(error)),
            };
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let fresh = format!(".{name}.{}.{number}", std::process::id());
        let place = || -> rustix::io::Result<()> {
            rustix::fs::symlinkat(tree.as_os_str().as_bytes(), self.dir.as_fd(), &fresh)?;
            rustix::fs::renameat(&self.dir, &fresh, &self.dir, &name).inspect_err(|_| {
                let _ = rustix::fs::unlinkat(&self.dir, &fresh, AtFlags::empty());
            })
        };
        place().map_err(wrote)
    }
}

/// Points `uid` at `tree` (or at nothing) in a scoreboard that another process serves, atomically. The next access of the user sees
/// the tree, with nothing remembered of an earlier one, be it the same: see [`crate::Mounts::switch`].
pub fn link(scoreboard: &Path, uid: u32, tree: Option<&Path>) -> Result<()> {
    Scoreboard::open(scoreboard)?.set(uid, tree)
}
