//! Volumes of their own are not made here.

use std::path::Path;

/// Never there.
pub struct Volume;

impl Volume {
    /// None.
    pub fn small(_: &Path, _: &str) -> Option<Self> {
        None
    }

    /// None.
    pub fn readonly(_: &Path) -> Option<Self> {
        None
    }

    pub fn ext4(_: &Path, _: &Path, _: u64) -> Option<Self> {
        None
    }

    pub fn of_image(_: &Path, _: &Path) -> Option<Self> {
        None
    }

    pub fn break_down(&self) -> bool {
        false
    }

    pub fn unmount(self) {}

    pub fn set_writable(&self, _: bool) {}
}
