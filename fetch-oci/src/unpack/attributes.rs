//! Owner, mode, times and extended attributes of what a layer makes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use super::entry::{Done, Failure};
use crate::tar_stream::Entry;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// Extended attributes that say something of a file, and not of how some filesystem keeps it.
const KEPT: [&[u8]; 4] =
    [b"user.", b"security.capability", b"system.posix_acl_access", DEFAULT_ACL];

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What Linux takes for the value of an extended attribute.
const LONGEST_VALUE: usize = 64 << 10;

/// What a directory gets when everything in it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    /// `None` leaves it as it is.
    pub(super) mode: Option<u32>,
    pub(super) mtime: (i64, u32),
    /// The ACL of what is made in it, which is not for what the image has in it.
    pub(super) default_acl: Option<Vec<u8>>,
}

impl Directory {
    /// Keeps the time it has.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn as_it_is(dir: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstat(dir)?;
        let mtime = (stat.st_mtime as i64, stat.st_mtime_nsec as u32);
        Ok(Self { mode: None, mtime, default_acl: None })
    }

    /// Gives it to `dir`; returns how many extended attributes were lost.
    pub(super) fn apply(&self, dir: &OwnedFd) -> Result<u64> {
        let lost = match &self.default_acl {
            Some(acl) => set(DEFAULT_ACL, acl, |name, value| set_dir(dir, name, value))?,
            None => 0,
        };
        if let Some(mode) = self.mode {
            rustix::fs::fchmod(dir, Mode::from_bits_retain(mode as _))?;
        }
        rustix::fs::futimens(dir, &times(self.mtime))?;
        Ok(lost)
    }
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ },
    }
}

/// Gives a new file all that `entry` has besides its contents; returns how many extended attributes were lost.
///
/// The order matters: a change of owner clears setuid and capabilities, and everything but the last call could change times.
pub(super) fn of_file(file: &OwnedFd, entry: &Entry, root: bool) -> Done<u64> {
    let made = rustix::fs::fstat(file)?;
    let mode = give_owner(&made, entry, root, |uid, gid| rustix::fs::fchown(file, uid, gid))?;
    let lost = set_all(entry, |name, value| {
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
    })?;
    if mode_of(&made) != mode || mode & (SETUID | SETGID) != 0 || !entry.xattrs.is_empty() {
        rustix::fs::fchmod(file, Mode::from_bits_retain(mode as _))?;
    }
    rustix::fs::futimens(file, &times(entry.mtime))?;
    Ok(lost)
}

/// The same for a directory; what it must not have yet is returned.
pub(super) fn of_dir(dir: &OwnedFd, entry: &Entry, root: bool) -> Done<(Directory, u64)> {
    let made = rustix::fs::fstat(dir)?;
    let mode = give_owner(&made, entry, root, |uid, gid| rustix::fs::fchown(dir, uid, gid))?;
    let lost = set_all(entry, |name, value| match name.to_bytes() {
        DEFAULT_ACL => Ok(()),
        _ => set_dir(dir, name, value),
    })?;
    let given = entry.xattrs.get(DEFAULT_ACL);
    // It is kept until the end, and no system takes a longer one.
    let default_acl = given.filter(|value| value.len() <= LONGEST_VALUE).cloned();
    let lost = lost + u64::from(given.is_some() && default_acl.is_none());
    Ok((Directory { mode: Some(mode), mtime: entry.mtime, default_acl }, lost))
}

/// The same for what cannot be opened. Extended attributes, which next to nobody gives to those, are lost.
pub(super) fn of_name(dir: &OwnedFd, name: &CStr, entry: &Entry, root: bool) -> Done<u64> {
    let made = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    give_owner(&made, entry, root, |uid, gid| {
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    })?;
    rustix::fs::utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(entry.xattrs.len() as u64)
}

/// Gives the owner, if the caller is root; returns the mode that is right for the owner it has now: a setuid file of
/// somebody else must not become one of the caller's.
fn give_owner(
    made: &Stat,
    entry: &Entry,
    root: bool,
    chown: impl Fn(Option<Uid>, Option<Gid>) -> Result<()>,
) -> Done<u32> {
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let (Some(uid), Some(gid)) = (id(entry.uid), id(entry.gid)) else {
        return Err(Failure::Entry("belongs to a number that no user can have"));
    };
    if (made.st_uid, made.st_gid) == (uid, gid) {
        return Ok(entry.mode);
    }
    if root {
        chown(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        return Ok(entry.mode);
    }
    let mut mode = entry.mode;
    if made.st_uid != uid {
        mode &= !SETUID;
    }
    if made.st_gid != gid {
        mode &= !SETGID;
    }
    Ok(mode)
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn mode_of(stat: &Stat) -> u32 {
    (stat.st_mode as u32) & 0o7777
}

/// Whether an extended attribute says something of its file.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    KEPT.iter().any(|kept| name == *kept || kept.ends_with(b".") && name.starts_with(kept))
}

fn set_all(entry: &Entry, mut set: impl FnMut(&CStr, &[u8]) -> Result<()>) -> Result<u64> {
    let mut lost = 0;
    // From the last name back: `user.` comes before `system.`, whose ACLs may take the caller's right to write.
    for (name, value) in entry.xattrs.iter().rev() {
        lost += self::set(name, value, &mut set)?;
    }
    Ok(lost)
}

/// Sets one extended attribute; returns 1 if it cannot be had.
fn set(name: &[u8], value: &[u8], set: impl FnOnce(&CStr, &[u8]) -> Result<()>) -> Result<u64> {
    let set = match CString::new(name) {
        Ok(c_name) if is_kept(name) => set(&c_name, value),
        _ => Err(Errno::NOTSUP),
    };
    match set {
        Ok(()) => Ok(0),
        Err(Errno::PERM | Errno::NOTSUP | Errno::ACCESS | Errno::INVAL) => Ok(1),
        Err(Errno::RANGE | Errno::TOOBIG) => Ok(1),
        Err(error) => Err(error),
    }
}

fn set_dir(dir: &OwnedFd, name: &CStr, value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(dir, name, value, XattrFlags::empty())
}

/// Takes from a directory of a lower layer the extended attributes that it has.
pub(super) fn clear(dir: &OwnedFd) -> Result<()> {
    let mut names = Vec::with_capacity(4096);
    match rustix::fs::flistxattr(dir, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP | Errno::RANGE) => return Ok(()),
        Err(error) => return Err(error),
    }
    let all = names.split_inclusive(|byte| *byte == 0);
    for name in all.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        if is_kept(name.to_bytes()) {
            match rustix::fs::fremovexattr(dir, name) {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
