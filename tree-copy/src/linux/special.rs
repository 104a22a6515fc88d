//! FIFOs, devices, modes of what cannot be opened, and the volume as a whole.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Result;

/// Makes a FIFO.
pub(crate) fn make_fifo(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::mknodat(dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
}

/// Makes a device node.
pub(crate) fn make_device(
    dir: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    device: u64,
) -> Result<()> {
    rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
}

/// Sets the mode of a FIFO or device, which nobody but us can see yet, so it is no link.
pub(crate) fn set_mode_of_name(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<()> {
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
}

/// Lets the owner read, write and enter the directory `name`, were it locked; never through a link.
pub(crate) fn make_traversable(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    // A descriptor of this kind takes no fchmod, but its entry in /proc leads to it and nowhere else.
    let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
    rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty())
}

/// Brings all of the volume that `fd` lies on to the disk.
pub(crate) fn sync_volume(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::syncfs(fd)
}

/// Brings one open file or directory to the disk.
pub(crate) fn sync_one(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fsync(fd)
}
