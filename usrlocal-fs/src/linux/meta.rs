//! Attributes by statx(2), which also knows when a file was made.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, StatxTimestamp, makedev};
use rustix::io::Result;

use crate::meta::{Meta, Time};

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The attributes of what `fd` is open on, a symlink itself included.
pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> Result<Meta> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED).map(from_statx)
}

/// The attributes of the entry `name`, never of what a symlink points at.
pub(crate) fn of_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<Meta> {
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, WANTED).map(from_statx)
}

/// The attributes of what `path` leads to.
pub(crate) fn of_path(path: &CStr) -> Result<Meta> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), WANTED).map(from_statx)
}

fn from_statx(stat: Statx) -> Meta {
    Meta {
        device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)),
        mode: u32::from(stat.stx_mode),
        links: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: kernel_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        block_size: stat.stx_blksize,
        accessed: time(stat.stx_atime),
        modified: time(stat.stx_mtime),
        changed: time(stat.stx_ctime),
    }
}

fn time(stamp: StatxTimestamp) -> Time {
    Time { seconds: stamp.tv_sec, nanoseconds: stamp.tv_nsec }
}

/// A device number in the 32 bits that the FUSE protocol has for it.
fn kernel_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
