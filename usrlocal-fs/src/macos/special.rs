//! Calls that every system has in its own form.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::handle::path;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `below` in `tree`, one component at a time, following no symlink.
pub(crate) fn open_beneath(tree: BorrowedFd<'_>, below: &CStr) -> Result<OwnedFd> {
    let mut dir = rustix::fs::openat(tree, c".", DIRECTORY, Mode::empty())?;
    for part in below.to_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        dir = rustix::fs::openat(&dir, part, DIRECTORY, Mode::empty())?;
    }
    Ok(dir)
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
    flags & libc::RENAME_SWAP != 0
}

/// Makes a hard link to the file itself.
pub(crate) fn link(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let meta = super::meta::of_fd(file)?;
    rustix::fs::linkat(CWD, path(meta.device, meta.inode), dir, name, AtFlags::empty())
}

/// Makes a regular file or a fifo; there are no devices in a tree, and sockets are made by binding them.
pub(crate) fn make_node(dir: BorrowedFd<'_>, name: &CStr, mode: u32, _device: u32) -> Result<()> {
    let bits = Mode::from_raw_mode((mode & 0o7777) as u16);
    match FileType::from_raw_mode((mode & 0o170_000) as u16) {
        FileType::Fifo => make_fifo(dir, name, mode),
        FileType::RegularFile => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, bits).map(drop)
        }
        _ => Err(Errno::PERM),
    }
}

fn make_fifo(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    let meta = super::meta::of_fd(dir)?;
    let mut place = path(meta.device, meta.inode).into_bytes();
    place.push(b'/');
    place.extend(name.to_bytes());
    let place = CString::new(place).expect("neither part holds a NUL");
    // SAFETY: a C string and a plain number.
    if unsafe { libc::mkfifo(place.as_ptr(), (mode & 0o7777) as libc::mode_t) } != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Changes the mode of what `fd` is open on.
pub(crate) fn change_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode((mode & 0o7777) as u16))
}

/// Changes the owner of what `fd` is open on, a symlink itself included.
pub(crate) fn change_owner(fd: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
    rustix::fs::fchown(fd, uid, gid)
}

/// Where the symlink that `fd` is open on points.
pub(crate) fn read_link(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let meta = super::meta::of_fd(fd)?;
    rustix::fs::readlink(path(meta.device, meta.inode), Vec::new()).map(CString::into_bytes)
}

/// Changes the times of what `fd` is open on, a symlink itself included.
pub(crate) fn change_times(fd: BorrowedFd<'_>, times: &Timestamps) -> Result<()> {
    rustix::fs::futimens(fd, times)
}

/// Reserving and freeing space is not asked for here.
pub(crate) fn allocate(_fd: BorrowedFd<'_>, _mode: u32, _offset: u64, _length: u64) -> Result<()> {
    Err(Errno::NOTSUP)
}

/// Copying ranges is not asked for here.
pub(crate) fn copy_range(
    _from: (&OwnedFd, u64),
    _to: (&OwnedFd, u64),
    _length: usize,
) -> Result<usize> {
    Err(Errno::NOTSUP)
}

/// Looks for data or a hole; `whence` is the system's own.
pub(crate) fn seek(fd: &OwnedFd, offset: i64, whence: i32) -> Result<i64> {
    // SAFETY: plain numbers and an open descriptor.
    let found = unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) };
    if found < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(found)
    }
}

/// Reads an extended attribute; with no room, says how much would be needed.
pub(crate) fn get_attribute(fd: BorrowedFd<'_>, name: &CStr, room: &mut [u8]) -> Result<usize> {
    if room.is_empty() {
        rustix::fs::fgetxattr_query(fd, name)
    } else {
        rustix::fs::fgetxattr(fd, name, room)
    }
}

/// Lists extended attributes; with no room, says how much would be needed.
pub(crate) fn list_attributes(fd: BorrowedFd<'_>, room: &mut [u8]) -> Result<usize> {
    if room.is_empty() {
        rustix::fs::flistxattr_query(fd)
    } else {
        rustix::fs::flistxattr(fd, room)
    }
}

/// Sets an extended attribute; `flags` are those of the system's own call.
pub(crate) fn set_attribute(
    fd: BorrowedFd<'_>,
    name: &CStr,
    value: &[u8],
    flags: i32,
) -> Result<()> {
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::from_bits_retain(flags as u32))
}

/// Removes an extended attribute.
pub(crate) fn remove_attribute(fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::fremovexattr(fd, name)
}

/// Indexers and watchers would only walk through every user's tree.
pub(crate) fn unwelcome(pid: u32) -> bool {
    const NAMES: [&[u8]; 4] = [b"/fseventsd", b"/mds", b"/mds_stores", b"/mdworker_shared"];
    let mut room = [0u8; libc::PROC_PIDPATHINFO_MAXSIZE as usize];
    // SAFETY: the room is as large as the call is told.
    let length =
        unsafe { libc::proc_pidpath(pid as i32, room.as_mut_ptr().cast(), room.len() as u32) };
    let path = room.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
    NAMES.iter().any(|name| path.ends_with(name))
}

/// Opens the directory again, for reading it.
pub(crate) fn reopen_directory(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::fs::openat(fd, c".", DIRECTORY, Mode::empty())
}

/// What is at `path`: the device it lies on.
pub(crate) fn device_without_asking(path: &CStr) -> Result<u64> {
    rustix::fs::stat(path).map(|stat| stat.st_dev as u64)
}

/// Brings the data of an open file to the disk.
pub(crate) fn sync_data(fd: &OwnedFd) -> Result<()> {
    rustix::fs::fsync(fd)
}

/// A duplicate that stands for the same open file.
pub(crate) fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)
}
