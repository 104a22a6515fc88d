//! `stat` in the same types on every platform.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Result;

/// What `stat` tells of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) nlink: u64,
    pub(crate) kind: FileType,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    pub(crate) size: u64,
    /// Bytes allocated on the disk.
    pub(crate) allocated: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    pub(crate) ctime: (i64, i64),
}

impl Meta {
    /// Of an open file.
    pub(crate) fn of(fd: impl AsFd) -> Result<Self> {
        rustix::fs::fstat(fd).map(|stat| Self::from(&stat))
    }

    /// Of `name` in `dir`, of a link itself and not of its target.
    pub(crate) fn at(dir: impl AsFd, name: &CStr) -> Result<Self> {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Self::from(&stat))
    }

    /// What tells this inode from all others.
    pub(crate) fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// The mode for `fchmod`.
    pub(crate) fn permissions(&self) -> Mode {
        Mode::from_bits_retain(self.mode as _)
    }

    /// The modification time for `utimensat`; the access time is left alone.
    pub(crate) fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
            last_modification: Timespec { tv_sec: self.mtime.0 as _, tv_nsec: self.mtime.1 as _ },
        }
    }
}

// The fields of `stat` have other types on other platforms.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
impl From<&Stat> for Meta {
    fn from(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: (stat.st_mode as u32) & 0o7777,
            uid: stat.st_uid as u32,
            gid: stat.st_gid as u32,
            rdev: stat.st_rdev as u64,
            size: stat.st_size as u64,
            allocated: stat.st_blocks as u64 * 512,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}
