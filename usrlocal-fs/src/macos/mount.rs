//! Mounting and unmounting.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fuser::KernelConfig;
use nix::mount::MntFlags;

use super::library;
use crate::error::{Error, Result};

/// An unresponsive server is cut off after a minute; files beginning with `._` are not made.
const OPTIONS: &str =
    "allow_other,default_permissions,noappledouble,nobrowse,daemon_timeout=60,fsname=usrlocal-fs";

/// Whether the kernel can be asked to forget a name: that is not known of this one.
pub(crate) const FORGETS_NAMES: bool = false;

/// Mounts at `at`; gives the kernel's end of the mount.
pub(crate) fn mount(at: &Path) -> Result<OwnedFd> {
    let device = library::mount(at, OPTIONS)?;
    match kinds_at(at).last().map(Vec::as_slice) {
        Some(b"macfuse" | b"osxfuse") => Ok(device),
        kind => {
            let kind = kind.map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            let _ = unmount(at);
            Err(Error::Unusable(format!(
                "the mount is of kind `{kind}`: only macFUSE's kernel extension says which user is calling, its FSKit back end does not"
            )))
        }
    }
}

/// The kernel extension needs to be asked for nothing, and cannot read and write open files by itself.
pub(crate) fn ask_for_capabilities(_config: &mut KernelConfig, _passthrough: bool) -> bool {
    false
}

/// One thread: more are not known to work here.
pub(crate) fn threads(_wanted: usize) -> (usize, bool) {
    (1, false)
}

/// Takes the mount at `at` away. When it is in use, what uses it gets errors from now on.
pub(crate) fn unmount(at: &Path) -> Result<()> {
    match nix::mount::unmount(at, MntFlags::MNT_FORCE) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(Error::path("unmount", at)(error)),
    }
}

/// Takes the mount at `at` away if nobody uses it.
pub(crate) fn unmount_idle(at: &Path) -> Result<()> {
    nix::mount::unmount(at, MntFlags::empty()).map_err(Error::path("unmount", at))
}

/// Takes the mount at `at` away, whoever uses it: async-signal-safe.
pub(crate) fn detach(at: &CStr) {
    // SAFETY: one system call with a C string and flags.
    unsafe {
        libc::unmount(at.as_ptr(), libc::MNT_FORCE);
    }
}

/// How many FUSE mounts lie over each other at `at`.
pub(crate) fn mounts_at(at: &Path) -> Result<usize> {
    Ok(kinds_at(at).iter().filter(|kind| kind.ends_with(b"fuse")).count())
}

/// Whether the server of the mount at `at` is gone.
pub(crate) fn is_dead(at: &Path) -> bool {
    let gone = [libc::ENOTCONN, libc::ENXIO, libc::EIO];
    at.metadata().is_err_and(|error| error.raw_os_error().is_some_and(|code| gone.contains(&code)))
}

/// The kinds of the mounts at `at`, the topmost last, as the kernel has them, without asking any server.
fn kinds_at(at: &Path) -> Vec<Vec<u8>> {
    // SAFETY: with no room the call only counts; then the room is as large as it is told, and the kernel fills in so many.
    let table = unsafe {
        let room = libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT).max(0) as usize + 8;
        let mut table: Vec<libc::statfs> = Vec::with_capacity(room);
        let bytes = (room * size_of::<libc::statfs>()) as libc::c_int;
        let count = libc::getfsstat(table.as_mut_ptr(), bytes, libc::MNT_NOWAIT).max(0) as usize;
        table.set_len(count.min(room));
        table
    };
    let text = |field: &[libc::c_char]| -> Vec<u8> {
        field.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect()
    };
    let here = |mount: &&libc::statfs| text(&mount.f_mntonname) == at.as_os_str().as_bytes();
    table.iter().filter(here).map(|mount| text(&mount.f_fstypename)).collect()
}
