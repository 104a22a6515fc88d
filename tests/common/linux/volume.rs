//! Volumes of their own, in memory.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted volume; unmounted when dropped.
pub struct Volume(PathBuf);

impl Volume {
    /// A volume of `size` (such as `6m`) at the directory `at`; only root can have one.
    pub fn small(at: &Path, size: &str) -> Option<Self> {
        Self::mount(at, MsFlags::empty(), &format!("size={size},mode=755"))
    }

    /// A volume at the directory `at` that takes no writes.
    pub fn readonly(at: &Path) -> Option<Self> {
        Self::mount(at, MsFlags::MS_RDONLY, "mode=755")
    }

    fn mount(at: &Path, flags: MsFlags, options: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)).unwrap();
        Some(Self(at.to_owned()))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
