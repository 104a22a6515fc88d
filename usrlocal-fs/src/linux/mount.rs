//! Mounting and unmounting.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fuser::{InitFlags, KernelConfig};
use nix::mount::{MntFlags, MsFlags};

use crate::error::{Error, Result};

/// What the kernel names the source and the kind of the mount.
const NAME: &str = "usrlocal-fs";

/// Whether the kernel can be asked to forget a name.
pub(crate) const FORGETS_NAMES: bool = true;

/// Mounts at `at`; gives the kernel's end of the mount.
pub(crate) fn mount(at: &Path) -> Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device = device
        .map_err(|error| Error::Unusable(format!("`/dev/fuse` cannot be opened: {error}")))?;
    let options = format!(
        "fd={},rootmode=40755,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    nix::mount::mount(Some(NAME), at, Some("fuse.usrlocal-fs"), flags, Some(options.as_str()))
        .map_err(Error::path("mount at", at))?;
    Ok(device.into())
}

/// Asks the kernel for what it can do and we can use; says whether it reads and writes open files by itself.
pub(crate) fn ask_for_capabilities(config: &mut KernelConfig, passthrough: bool) -> bool {
    let wanted = [
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_READDIRPLUS_AUTO,
    ];
    for flag in wanted {
        if let Err(missing) = config.add_capabilities(flag) {
            tracing::debug!(?missing, "the kernel lacks a capability");
        }
    }
    let _ = config.set_max_background(64);
    passthrough
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(2).is_ok()
}

/// How many requests may be answered at once, and whether each thread has an end of the mount to itself.
pub(crate) fn threads(wanted: usize) -> (usize, bool) {
    (wanted.max(2), true)
}

/// Takes the mount at `at` away. When it is in use, what uses it gets errors from now on.
pub(crate) fn unmount(at: &Path) -> Result<()> {
    let unmounted = match nix::mount::umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
        Err(nix::errno::Errno::EBUSY) => {
            // Forcing ends the connection, so nobody waits for a server that is gone; detaching removes the name.
            let _ = nix::mount::umount2(at, MntFlags::MNT_FORCE);
            nix::mount::umount2(at, MntFlags::MNT_DETACH)
        }
        result => result,
    };
    match unmounted {
        // Already gone.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(Error::path("unmount", at)(error)),
    }
}

/// Takes the mount at `at` away if nobody uses it.
pub(crate) fn unmount_idle(at: &Path) -> Result<()> {
    nix::mount::umount2(at, MntFlags::UMOUNT_NOFOLLOW).map_err(Error::path("unmount", at))
}

/// Takes the mount at `at` away, whoever uses it: async-signal-safe.
pub(crate) fn detach(at: &CStr) {
    // SAFETY: one system call with a C string and flags.
    unsafe {
        libc::umount2(at.as_ptr(), libc::MNT_DETACH);
    }
}

/// How many mounts of this filesystem lie over each other at `at`.
pub(crate) fn mounts_at(at: &Path) -> Result<usize> {
    let table = Path::new("/proc/self/mountinfo");
    let table = fs::read(table).map_err(Error::path("read", table))?;
    let ours = |line: &&[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = fields.nth(4).map(unescape);
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        point.is_some_and(|point| Path::new(OsStr::from_bytes(&point)) == at)
            && kind == Some(b"fuse.usrlocal-fs".as_slice())
    };
    Ok(table.split(|byte| *byte == b'\n').filter(ours).count())
}

/// Whether the server of the mount at `at` is gone.
pub(crate) fn is_dead(at: &Path) -> bool {
    File::open(at).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// The kernel's table writes blanks and the like as octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let octal =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_read() {
        assert_eq!(unescape(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescape(br"/a\9"), br"/a\9");
    }
}
