//! The seam to mounting: by the kernel's own calls where there are such, else by `zfs mount`.

mod by_command;

use std::fmt::Debug;
use std::ffi::OsStr;
use std::path::Path;

use obuilder_core::contracts::Carry;
use obuilder_core::error::StoreError;

use crate::command::Zfs;
use crate::layout::Place;

pub(crate) use by_command::ByCommand;

/// Datasets below one that is a tree, and where in its directory they are shown: OBuilder keeps the home and the Homebrew prefix of
/// a Mac apart.
pub(crate) const CHILDREN: [(&str, &str); 2] = [("home", "rootfs"), ("brew", "rootfs/local")];

/// Mounts datasets for as long as they are used.
pub(crate) trait Mounter: Debug + Send + Sync {
    /// Mounts `dataset`, or its snapshot to be read, at the directory `at`. Says whether it was there.
    fn mount(
        &self,
        zfs: &Zfs,
        dataset: &str,
        snapshot: bool,
        at: &Path,
    ) -> Result<bool, StoreError>;

    /// Unmounts what of `dataset` and its children is mounted in the directory `at`, even if it is in use and `force`d.
    fn unmount(&self, zfs: &Zfs, dataset: &str, at: &Path, force: bool) -> Result<(), StoreError>;

    /// Whether `dataset` or its snapshot is mounted, for which there is but the place `at`.
    fn is_mounted(&self, zfs: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError>;

    /// How a tree gets to where a step sees it.
    fn carry(&self, program: &OsStr, place: &Place) -> Carry;

    /// Whether a tree must be a dataset of its own, to be mounted where a step sees it.
    fn wants_tree_apart(&self) -> bool;

    /// What it is, for people.
    fn name(&self) -> &'static str;
}
