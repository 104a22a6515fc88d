//! Attributes by stat(2), which also knows when a file was made.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Stat};
use rustix::io::Result;

use crate::meta::{Meta, Time};

/// The attributes of what `fd` is open on, a symlink itself included.
pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> Result<Meta> {
    rustix::fs::fstat(fd).map(from_stat)
}

/// The attributes of the entry `name`, never of what a symlink points at.
pub(crate) fn of_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<Meta> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(from_stat)
}

/// The attributes of what `path` leads to.
pub(crate) fn of_path(path: &CStr) -> Result<Meta> {
    rustix::fs::stat(path).map(from_stat)
}

fn from_stat(stat: Stat) -> Meta {
    let time = |seconds: i64, nanoseconds: i64| Time { seconds, nanoseconds: nanoseconds as u32 };
    Meta {
        device: stat.st_dev as u64,
        inode: stat.st_ino,
        born: Some(time(stat.st_birthtime, stat.st_birthtime_nsec)),
        mode: u32::from(stat.st_mode),
        links: u32::from(stat.st_nlink),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        block_size: stat.st_blksize as u32,
        accessed: time(stat.st_atime, stat.st_atime_nsec),
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        changed: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}
