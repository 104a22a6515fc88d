//! The seam to mounting: by the kernel's own calls where there are such, else by `zfs mount`.

mod by_command;
mod set_mountpoint;
mod table;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use obuilder_core::contracts::Carry;
use obuilder_core::error::StoreError;

use crate::command::Zfs;
use crate::layout::{Place, SNAPSHOT};
use crate::openings::Openings;
use crate::tree::Children;

pub(crate) use by_command::ByCommand;

/// Datasets below one that is a tree, and where in its directory they are shown: OBuilder keeps the home and the Homebrew prefix of
/// a Mac apart.
pub(crate) const CHILDREN: [(&str, &str); 2] = [("home", "rootfs"), ("brew", "rootfs/local")];

/// Where the second of them is shown in the tree.
pub(crate) const LOCAL: &str = "local";

/// Whether there is a directory at `place` in `at`, on the way to which no link leads elsewhere: a step may have made it.
pub(crate) fn is_place(at: &Path, place: &str) -> bool {
    let mut path = at.to_owned();
    place.split('/').all(|name| {
        path.push(name);
        path.symlink_metadata().is_ok_and(|found| found.is_dir())
    })
}

/// Mounts datasets for as long as they are used.
pub(crate) trait Mounter: Debug + Send + Sync {
    /// Mounts `dataset` at the directory `at`. Says whether it was there.
    fn mount(&self, zfs: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError>;

    /// Shows the snapshot of `dataset` and its children in the directory `at`, if they are not shown there already. Says whether
    /// there is one.
    fn show(&self, zfs: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError>;

    /// Whether `dataset` has our snapshot. At the directory `at`, if there is one, nothing is mounted.
    fn has_snapshot(&self, zfs: &Zfs, dataset: &str, _: Option<&Path>) -> Result<bool, StoreError> {
        zfs.exists(&format!("{dataset}@{SNAPSHOT}"))
    }

    /// Has what was written to the tree in the directory `at`, and to these of its children, be in a snapshot that is taken next, while
    /// they are mounted; says whether that can be done. If not, what is unmounted is.
    fn flush(&self, _at: &Path, _: &Children) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Unmounts what of `dataset`, and of its children if it can have `children`, is mounted in the directory `at`, even if it is
    /// in use and `force`d.
    fn unmount(
        &self,
        zfs: &Zfs,
        dataset: &str,
        at: &Path,
        children: bool,
        force: bool,
    ) -> Result<(), StoreError>;

    /// Notes that `dataset` has been made a moment ago, to be mounted at `at`: nobody but this process has to do with it.
    fn born(&self, _dataset: &str, _at: &Path) {}

    /// Notes that `dataset` with all below it has gone, or has a name by which others find it.
    fn parted(&self, _dataset: &str) {}

    /// How a tree gets to where a step sees it.
    fn carry(&self, zfs: &Zfs, place: &Place, openings: &Arc<Openings>) -> Carry;

    /// Whether a tree must be a dataset of its own, to be mounted where a step sees it. If not, a dataset can be mounted anywhere,
    /// whatever its mount point.
    fn wants_tree_apart(&self) -> bool;

    /// What it is, for people.
    fn name(&self) -> &'static str;
}
