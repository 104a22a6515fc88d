//! FIFOs, devices, modes of what cannot be opened, and the volume as a whole.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::{Errno, Result};

/// There is no call for it that takes a directory's descriptor.
pub(crate) fn make_fifo(_dir: BorrowedFd<'_>, _name: &CStr) -> Result<()> {
    Err(Errno::NOTSUP)
}

/// Device nodes have no meaning outside `/dev` here.
pub(crate) fn make_device(
    _dir: BorrowedFd<'_>,
    _name: &CStr,
    _kind: FileType,
    _device: u64,
) -> Result<()> {
    Err(Errno::NOTSUP)
}

/// Sets the mode of a FIFO or device.
pub(crate) fn set_mode_of_name(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<()> {
    rustix::fs::chmodat(dir, name, mode, AtFlags::SYMLINK_NOFOLLOW)
}

/// Lets the owner read, write and enter the directory `name`, were it locked; never through a link.
pub(crate) fn make_traversable(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}

/// Write to the platter, and wait for it: flags of `fsync_volume_np`.
const FULL_SYNC_AND_WAIT: libc::c_int = 0x01 | 0x02;

unsafe extern "C" {
    fn fsync_volume_np(fd: libc::c_int, flags: libc::c_int) -> libc::c_int;
}

/// Brings all of the volume that `fd` lies on to the disk.
pub(crate) fn sync_volume(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call takes an open descriptor and flags, and touches no memory of ours.
    match unsafe { fsync_volume_np(fd.as_raw_fd(), FULL_SYNC_AND_WAIT) } {
        0 => Ok(()),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}

/// Brings one open file or directory to the disk, through the disk's own cache.
pub(crate) fn sync_one(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fcntl_fullfsync(fd)
}
