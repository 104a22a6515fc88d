//! Mounting by `mount(2)`: no process is started, and a snapshot is mounted without its dataset.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use obuilder_core::contracts::{Carrier, Carry};
use obuilder_core::error::StoreError;

use super::mounted;
use crate::command::Zfs;
use crate::layout::{Place, SNAPSHOT, failed};
use crate::mount::{CHILDREN, LOCAL, Mounter, is_place};
use crate::openings::Openings;
use crate::tree::Children;

/// How often what is busy is unmounted, and how long is waited in between.
const TRIES: u32 = 10;
const WAIT: Duration = Duration::from_millis(10);

/// The kernel itself.
#[derive(Debug)]
pub(super) struct Kernel;

/// Whether the kernel can mount ZFS.
pub(super) fn knows_zfs() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().last() == Some("zfs"))
}

impl Mounter for Kernel {
    fn mount(&self, _: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError> {
        mount_one(dataset, at, MsFlags::empty())
    }

    /// A snapshot is mounted by itself, so that nothing can write to it.
    fn show(&self, _: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError> {
        if !show_one(dataset, at)? {
            return Ok(false);
        }
        for (child, place) in CHILDREN {
            // Where there is no place for it, none was ever shown.
            if is_place(at, place) {
                show_one(&format!("{dataset}/{child}"), &at.join(place))?;
            }
        }
        Ok(true)
    }

    /// By trying to mount it, which costs less than a command.
    fn has_snapshot(
        &self,
        zfs: &Zfs,
        dataset: &str,
        at: Option<&Path>,
    ) -> Result<bool, StoreError> {
        let snapshot = format!("{dataset}@{SNAPSHOT}");
        let Some(at) = at else { return zfs.exists(&snapshot) };
        let found = mount_one(&snapshot, at, MsFlags::MS_RDONLY)?;
        if found {
            unmount_one(at, true)?;
        }
        Ok(found)
    }

    /// What was written is in the pool's next write anyway, but for pages of files that were written as memory.
    fn flush(&self, at: &Path, children: &Children) -> Result<bool, StoreError> {
        let below = children.iter().map(|number| at.join(CHILDREN[*number].1));
        for dir in [at.to_owned()].into_iter().chain(below) {
            let written = fs::File::open(&dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
            written.map_err(|e| failed("write what has changed in", &dir, e))?;
        }
        Ok(true)
    }

    fn unmount(
        &self,
        _: &Zfs,
        _: &str,
        at: &Path,
        children: bool,
        force: bool,
    ) -> Result<(), StoreError> {
        for (_, place) in CHILDREN.iter().rev().filter(|(_, place)| children && is_place(at, place))
        {
            unmount_one(&at.join(place), force)?;
        }
        unmount_one(at, force)
    }

    fn carry(&self, _: &Zfs, _: &Place, _: &Arc<Openings>) -> Carry {
        Carry::new(Bind)
    }

    fn wants_tree_apart(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "mounts by the kernel"
    }
}

/// Says whether it was there.
fn mount_one(source: &str, at: &Path, more: MsFlags) -> Result<bool, StoreError> {
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | more;
    match mount(Some(source), at, Some("zfs"), flags, None::<&str>) {
        Ok(()) => Ok(true),
        // The directory is there, so it is the dataset that is not.
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(failed(&format!("mount `{source}` at"), at, error.into())),
    }
}

/// Mounts the snapshot of `dataset`, unless it is mounted there: a killed process may have mounted a part of a tree. What else is
/// mounted there, such as what an OBuilder is making, is no result. Says whether there is one.
fn show_one(dataset: &str, at: &Path) -> Result<bool, StoreError> {
    let snapshot = format!("{dataset}@{SNAPSHOT}");
    if is_mounted(at) {
        let source = mounted::source(at).map_err(|e| failed("look at", at, e))?;
        if source.is_some_and(|source| source == *snapshot) {
            return Ok(true);
        }
    }
    mount_one(&snapshot, at, MsFlags::MS_RDONLY)
}

/// Whether anything is.
fn is_mounted(at: &Path) -> bool {
    let device = |path: &Path| rustix::fs::lstat(path).map(|found| found.st_dev);
    matches!((device(at), at.parent().map(device)), (Ok(own), Some(Ok(parent))) if own != parent)
}

fn unmount_one(at: &Path, force: bool) -> Result<(), StoreError> {
    unmount_patiently(at, force).map_err(|e| failed("unmount", at, e))
}

/// What nothing is mounted at is unmounted. What is in use goes out of sight if `force`d, with everything in it written: somebody
/// still reads the log of a step, say.
fn unmount_patiently(at: &Path, force: bool) -> io::Result<()> {
    let plain = || match umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        done => Ok(done?),
    };
    if !force {
        return patiently(plain);
    }
    match plain() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            rustix::fs::syncfs(fs::File::open(at)?)?;
            Ok(umount2(at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?)
        }
        done => done,
    }
}

/// A directory of a dataset is shown elsewhere too.
#[derive(Debug)]
struct Bind;

impl Carrier for Bind {
    fn carry(&self, dir: &Path, to: &Path) -> io::Result<()> {
        let set = |from: Option<&Path>, flags: MsFlags| {
            mount(from, to, None::<&str>, flags | MsFlags::MS_REC, None::<&str>)
        };
        set(Some(dir), MsFlags::MS_BIND)?;
        // Or what is unmounted there would be unmounted here too.
        set(None, MsFlags::MS_PRIVATE).map_err(|error| {
            let _ = umount2(to, MntFlags::MNT_DETACH);
            error.into()
        })
    }

    fn bring_back(&self, from: &Path, _: &Path) -> io::Result<()> {
        unmount_patiently(from, true)
    }

    fn mounts(&self) -> bool {
        true
    }

    fn inside(&self, dir: &Path) -> Option<&'static str> {
        is_mounted(&dir.join(LOCAL)).then_some(LOCAL)
    }
}

/// Repeats `call` while what it is about is busy, within bounds.
fn patiently(call: impl Fn() -> io::Result<()>) -> io::Result<()> {
    for _ in 1..TRIES {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(WAIT),
            done => return done,
        }
    }
    call()
}
