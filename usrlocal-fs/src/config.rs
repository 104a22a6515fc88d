//! What to serve, and where.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// What to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of symlinks `UID -> TREE`; it must belong to whoever serves.
    pub scoreboard: PathBuf,
    /// Where to mount, and what is seen there.
    pub mount_points: Vec<MountPoint>,
    /// How long the kernel may remember names and attributes below the first level of a mount.
    ///
    /// While a uid's link stands, its tree is written through the mount alone; a link that is made anew, or
    /// [`crate::Mounts::invalidate`], makes the kernel look at everything afresh.
    pub remember: Duration,
    /// Threads that answer requests, at least two, for each mount point.
    pub workers: usize,
    /// Whether the kernel may read and write open files by itself where it can.
    pub passthrough: bool,
}

impl Config {
    /// Serves the trees of `scoreboard` at `mount_points`, with everything else as is best.
    pub fn new(scoreboard: impl Into<PathBuf>, mount_points: Vec<MountPoint>) -> Self {
        Self {
            scoreboard: scoreboard.into(),
            mount_points,
            remember: Duration::from_secs(60),
            workers: 8,
            passthrough: true,
        }
    }

    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        if self.mount_points.is_empty() {
            return Err(Error::NothingToServe);
        }
        for point in &self.mount_points {
            if !point.at.is_absolute() {
                return Err(Error::Relative(point.at.clone()));
            }
            let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            if !point.subdirectory.components().all(inside) {
                return Err(Error::Outside(point.subdirectory.clone()));
            }
        }
        Ok(())
    }
}

/// One path at which every user sees its own tree.
#[derive(Debug, Clone)]
pub struct MountPoint {
    /// The path, such as `/usr/local`.
    pub at: PathBuf,
    /// Which directory of a user's tree is seen there; `.` is the tree itself.
    pub subdirectory: PathBuf,
    /// What a user without an entry sees.
    pub otherwise: Otherwise,
    /// Whether the mount point itself looks the same to everybody; see [`MountPoint::with_same_top`].
    pub same_top: bool,
}

impl MountPoint {
    /// Shows `TREE/local`, and to a user without an entry what was there before.
    pub fn new(at: impl Into<PathBuf>) -> Self {
        Self {
            at: at.into(),
            subdirectory: PathBuf::from("local"),
            otherwise: Otherwise::Underneath,
            same_top: false,
        }
    }

    /// Shows `subdirectory` of a user's tree.
    #[must_use]
    pub fn showing(mut self, subdirectory: impl AsRef<Path>) -> Self {
        self.subdirectory = subdirectory.as_ref().to_owned();
        self
    }

    /// Shows `otherwise` to a user without an entry.
    #[must_use]
    pub fn otherwise(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }

    /// Shows the mount point itself to everybody as a directory of root's in which all may write. What a caller may do there
    /// is still decided by the attributes of its own tree's directory, which cannot be seen, and not be changed through the
    /// mount (`EPERM`).
    ///
    /// The kernel may then remember them, and a path from `/` asks the server once instead of twice. Good for a directory of
    /// homes; not for a home itself, nor where archives are unpacked that name `.`.
    #[must_use]
    pub fn with_same_top(mut self) -> Self {
        self.same_top = true;
        self
    }
}

/// What a user without an entry sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otherwise {
    /// The directory that was there before the mount.
    Underneath,
    /// This directory.
    Directory(PathBuf),
    /// Nothing: every access is `ENOENT`.
    Nothing,
}
