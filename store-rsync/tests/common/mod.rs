//! Real filesystems to test on.

#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code)]

pub(crate) mod trees;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use obuilder_core::ResultId;
use store_rsync::{Mode, RsyncStore, WarmTrees};

/// A new directory on some filesystem; it and what was mounted for it go away with this.
pub(crate) struct Place {
    dir: PathBuf,
    mounted: bool,
    _temporary: tempfile::TempDir,
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A background thread of a store may be about to end.
        let mounted = self.mounted;
        let gone =
            !mounted || (0..100).any(|_| run(&["umount", self.dir.to_str().unwrap()]) || wait());
        if !gone {
            eprintln!("failed to unmount {}", self.dir.display());
        }
    }
}

fn wait() -> bool {
    std::thread::sleep(std::time::Duration::from_millis(50));
    false
}

fn run(line: &[&str]) -> bool {
    let mut command = Command::new(line[0]);
    let command = command.args(&line[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn skip(reason: &str) -> Option<Place> {
    eprintln!("SKIP: {reason}");
    None
}

/// A directory on whatever holds temporary files.
pub(crate) fn plain() -> Option<Place> {
    let temporary = tempfile::tempdir().unwrap();
    Some(Place { dir: temporary.path().to_owned(), mounted: false, _temporary: temporary })
}

/// A new filesystem in a file: `mkfs` makes it, and `magic` is what the kernel calls it.
fn on_loop(mkfs: &[&str], megabytes: u64, magic: i64) -> Option<Place> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a filesystem");
    }
    let temporary = tempfile::tempdir().unwrap();
    let (image, dir) = (temporary.path().join("image"), temporary.path().join("mount"));
    std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let path = image.to_str().unwrap();
    if !run(&[mkfs, &[path]].concat()) {
        return skip(&format!("`{}` is not installed", mkfs[0]));
    }
    if !run(&["mount", "-o", "loop", path, dir.to_str().unwrap()]) {
        return skip("the kernel mounts no file");
    }
    let place = Place { dir, mounted: true, _temporary: temporary };
    let found = rustix::fs::statfs(place.as_ref()).unwrap().f_type;
    assert_eq!(found as i64, magic, "the filesystem is not what it was made as");
    Some(place)
}

pub(crate) fn ext4(megabytes: u64) -> Option<Place> {
    on_loop(&["mkfs.ext4", "-q", "-m", "0"], megabytes, 0xef53)
}

pub(crate) fn xfs() -> Option<Place> {
    on_loop(&["mkfs.xfs", "-q", "-m", "reflink=1"], 400, 0x5846_5342)
}

pub(crate) fn btrfs() -> Option<Place> {
    on_loop(&["mkfs.btrfs", "-q"], 400, 0x9123_683e)
}

/// A directory that nobody can move away while this lives: a mount for root, for others one that may not be opened.
pub(crate) struct Stuck(PathBuf);

impl Stuck {
    pub(crate) fn new(dir: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            std::fs::set_permissions(dir, Permissions::from_mode(0o000)).unwrap();
        } else if !run(&["mount", "-t", "tmpfs", "none", dir.to_str().unwrap()]) {
            eprintln!("SKIP: nothing can be mounted");
            return None;
        }
        Some(Self(dir.to_owned()))
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        if rustix::process::geteuid().is_root() {
            run(&["umount", self.0.to_str().unwrap()]);
        } else {
            let _ = std::fs::set_permissions(&self.0, Permissions::from_mode(0o700));
        }
    }
}

pub(crate) fn open(dir: &Path, mode: Mode) -> RsyncStore {
    RsyncStore::open(&dir.join("store"), mode).unwrap()
}

/// Keeps even the smallest trees warm.
pub(crate) fn open_warm(dir: &Path, mode: Mode) -> RsyncStore {
    let warm = WarmTrees {
        most: 3,
        least_entries: 0,
        ahead_after: std::time::Duration::ZERO,
        ..WarmTrees::default()
    };
    RsyncStore::open_with(&dir.join("store"), mode, warm).unwrap()
}

pub(crate) fn id(text: &str) -> ResultId {
    ResultId::of(text.as_bytes())
}

/// What lies in the store's directories of unfinished things.
pub(crate) fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let dirs = ["store/result-tmp", "store/cache-tmp"].map(|name| dir.join(name));
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
    entries.map(|entry| entry.unwrap().path()).collect()
}
