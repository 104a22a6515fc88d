//! Mounting by `mount(2)`: no process is started, and a snapshot is mounted without its dataset.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use obuilder_core::contracts::{Carrier, Carry};
use obuilder_core::error::StoreError;

use crate::command::Zfs;
use crate::layout::{Place, SNAPSHOT, failed};
use crate::mount::{CHILDREN, Mounter};

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
    fn mount(&self, _: &Zfs, dataset: &str, snapshot: bool, at: &Path) -> Result<bool, StoreError> {
        let mut flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV;
        let source = match snapshot {
            true => format!("{dataset}@{SNAPSHOT}"),
            false => dataset.to_owned(),
        };
        flags.set(MsFlags::MS_RDONLY, snapshot);
        match mount(Some(source.as_str()), at, Some("zfs"), flags, None::<&str>) {
            Ok(()) => Ok(true),
            // The directory is there, so it is the dataset that is not.
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(failed(&format!("mount `{source}` at"), at, error.into())),
        }
    }

    fn unmount(&self, _: &Zfs, _: &str, at: &Path, force: bool) -> Result<(), StoreError> {
        for (_, place) in CHILDREN.iter().rev() {
            unmount_one(&at.join(place), force)?;
        }
        unmount_one(at, force)
    }

    fn is_mounted(&self, _: &Zfs, _: &str, at: &Path) -> Result<bool, StoreError> {
        let device = |path: &Path| rustix::fs::lstat(path).map(|found| found.st_dev);
        Ok(match (device(at), at.parent().map(device)) {
            (Ok(own), Some(Ok(parent))) => own != parent,
            _ => false,
        })
    }

    fn carry(&self, _: &OsStr, _: &Place) -> Carry {
        Carry::new(Bind)
    }

    fn wants_tree_apart(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "mounts by the kernel"
    }
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
