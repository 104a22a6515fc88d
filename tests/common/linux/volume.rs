//! Volumes of their own, in memory or in a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

    /// A volume of an ext4 filesystem in the new file `image`, of `megabytes`, without room kept for root.
    pub fn ext4(at: &Path, image: &Path, megabytes: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        std::fs::File::create(image).unwrap().set_len(megabytes << 20).unwrap();
        if !run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image)) {
            return None;
        }
        Self::of_image(at, image)
    }

    /// The volume in the file `image`. What is written stays in memory for long, unless somebody syncs.
    pub fn of_image(at: &Path, image: &Path) -> Option<Self> {
        let mut command = Command::new("mount");
        run(command.args(["-o", "loop,commit=300,errors=remount-ro"]).arg(image).arg(at))
            .then(|| Self(at.to_owned()))
    }

    /// Has the filesystem meet an error, upon which it takes no writes any more; whether the kernel can be asked to.
    pub fn break_down(&self) -> bool {
        std::fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", self.device()), "broken").is_ok()
    }

    /// Goes, once nobody uses it any more: a step elsewhere may see it for a moment, and have a copy of the mount for another.
    pub fn unmount(self) {
        let file = format!("/sys/block/{}/loop/backing_file", self.device());
        let image = std::fs::read_to_string(&file).ok();
        let deadline = Instant::now() + super::super::BOUND;
        while let Err(error) = umount2(&self.0, MntFlags::empty()) {
            assert!(Instant::now() < deadline, "{}: {error}", self.0.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        while image.is_some() && std::fs::read_to_string(&file).ok() == image {
            assert!(Instant::now() < deadline, "{} is in use", self.0.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::mem::forget(self);
    }

    /// The name of the device that is mounted.
    fn device(&self) -> String {
        let source = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.0).output();
        let source = String::from_utf8(source.unwrap().stdout).unwrap();
        source.trim().rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Takes writes from now on, or takes them no more.
    pub fn set_writable(&self, writable: bool) {
        let options = if writable { "remount,rw" } else { "remount,ro" };
        assert!(run(Command::new("mount").args(["-o", options]).arg(&self.0)), "{options}");
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

/// Runs a command; says whether it is there and went well.
fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}
