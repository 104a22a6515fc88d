//! Calls that every system has in its own form.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

/// A path to what `fd` is open on, a symlink itself included, good as long as `fd` is open.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no NUL")
}

/// Opens the directory `below` in `tree`, to look at it, following no symlink and never leaving it.
pub(crate) fn open_beneath(tree: BorrowedFd<'_>, below: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(tree, below, flags, Mode::empty(), resolve)
}

/// Renames an entry; `flags` are those of the system's own call.
pub(crate) fn rename(
    from: (BorrowedFd<'_>, &CStr),
    to: (BorrowedFd<'_>, &CStr),
    flags: u32,
) -> Result<()> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::from_bits_retain(flags))
}

/// Whether a rename with these flags exchanges the two entries.
pub(crate) fn exchanges(flags: u32) -> bool {
    flags & RenameFlags::EXCHANGE.bits() != 0
}

/// Makes a hard link to the file itself, even if it is a symlink.
pub(crate) fn link(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::linkat(CWD, proc_path(file), dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// Makes a file of any kind but a directory or a symlink.
pub(crate) fn make_node(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u32) -> Result<()> {
    let (major, minor) =
        ((device & 0x000f_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0x000f_ff00));
    let kind = FileType::from_raw_mode(mode);
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode & 0o7777), device)
}

/// Changes the mode of what `fd` is open on.
pub(crate) fn change_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(mode & 0o7777))
}

/// Changes the owner of what `fd` is open on, a symlink itself included.
pub(crate) fn change_owner(fd: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}

/// Where the symlink that `fd` is open on points.
pub(crate) fn read_link(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(fd, c"", Vec::new()).map(CString::into_bytes)
}

/// Changes the times of what `fd` is open on, a symlink itself included.
pub(crate) fn change_times(fd: BorrowedFd<'_>, times: &Timestamps) -> Result<()> {
    rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH)
}

/// Reserves or frees space in a file.
pub(crate) fn allocate(fd: BorrowedFd<'_>, mode: u32, offset: u64, length: u64) -> Result<()> {
    rustix::fs::fallocate(fd, FallocateFlags::from_bits_retain(mode), offset, length)
}

/// Copies a range from one open file to another; says how much.
pub(crate) fn copy_range(
    from: (&OwnedFd, u64),
    to: (&OwnedFd, u64),
    length: usize,
) -> Result<usize> {
    let (mut read, mut written) = (from.1, to.1);
    rustix::fs::copy_file_range(from.0, Some(&mut read), to.0, Some(&mut written), length)
}

/// Looks for data or a hole; `whence` is the system's own.
pub(crate) fn seek(fd: &OwnedFd, offset: i64, whence: i32) -> Result<i64> {
    // SAFETY: plain numbers and an open descriptor.
    let found = unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) };
    if found < 0 { Err(last_error()) } else { Ok(found) }
}

/// Reads an extended attribute; with no room, says how much would be needed.
pub(crate) fn get_attribute(fd: BorrowedFd<'_>, name: &CStr, room: &mut [u8]) -> Result<usize> {
    let path = proc_path(fd);
    if room.is_empty() {
        rustix::fs::getxattr_query(path, name)
    } else {
        rustix::fs::getxattr(path, name, room)
    }
}

/// Lists extended attributes; with no room, says how much would be needed.
pub(crate) fn list_attributes(fd: BorrowedFd<'_>, room: &mut [u8]) -> Result<usize> {
    let path = proc_path(fd);
    if room.is_empty() {
        rustix::fs::listxattr_query(path)
    } else {
        rustix::fs::listxattr(path, room)
    }
}

/// Sets an extended attribute; `flags` are those of the system's own call.
pub(crate) fn set_attribute(
    fd: BorrowedFd<'_>,
    name: &CStr,
    value: &[u8],
    flags: i32,
) -> Result<()> {
    let flags = XattrFlags::from_bits_retain(flags as u32);
    rustix::fs::setxattr(proc_path(fd), name, value, flags)
}

/// Removes an extended attribute.
pub(crate) fn remove_attribute(fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::removexattr(proc_path(fd), name)
}

/// The caller is one that is told that there is nothing here, because it would only index or watch it.
pub(crate) fn unwelcome(_pid: u32) -> bool {
    false
}

/// Opens the directory again, for reading it.
pub(crate) fn reopen_directory(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(fd, c".", flags, Mode::empty())
}

/// What is at `path`, without asking a filesystem server: the device it lies on.
pub(crate) fn device_without_asking(path: &CStr) -> Result<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path, flags, rustix::fs::StatxFlags::empty())?;
    Ok(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// Brings the data of an open file to the disk.
pub(crate) fn sync_data(fd: &OwnedFd) -> Result<()> {
    rustix::fs::fdatasync(fd)
}

/// A duplicate that stands for the same open file.
pub(crate) fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
