//! FIFOs, devices, modes of what cannot be opened, and the volume as a whole.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

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

/// Brings everything to the disk; there is no call for one volume.
pub(crate) fn sync_volume(_fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::sync();
    Ok(())
}
