//! Owner, mode, times and extended attributes: how they go from one file to another.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::{Errno, Result};

use crate::copy::Owners;
use crate::meta::Meta;
use crate::platform;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const PERMISSIONS: u32 = 0o777;
const OWNER_READS_AND_WRITES: u32 = 0o600;

/// The mode to make a copy with: already the right one where its owner keeps the right to write, which attributes need.
/// Nobody else can reach the copy before it is complete: no one may enter its directory until that is.
pub(crate) fn first_mode(meta: &Meta) -> Mode {
    let mode = meta.mode & PERMISSIONS;
    let open = mode & OWNER_READS_AND_WRITES == OWNER_READS_AND_WRITES;
    let mode = if open { mode } else { OWNER_READS_AND_WRITES };
    Mode::from_bits_retain(mode as _)
}

/// How much of a file's attributes could not be given to its copy, because the caller may not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) owner: bool,
    pub(crate) attributes: bool,
}

/// Gives the open file or directory `to` all that `from`, described by `meta`, has besides its contents.
///
/// The order matters: a change of owner clears setuid and capabilities, an ACL changes the mode, and everything but the
/// last call could change the times.
pub(crate) fn copy_to_open(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    meta: &Meta,
    owners: Owners,
) -> Result<Lost> {
    let mut lost = Lost::default();
    let mut wanted = *meta;
    let made = Meta::of(to)?;
    let chown = |uid, gid| rustix::fs::fchown(to, uid, gid);
    (lost.owner, wanted.mode) = give_owner(&made, meta, owners, chown)?;
    lost.attributes = platform::copy_attributes(from, to)?;
    // An ACL that was copied brings the very mode of its original, so only one that was refused leaves a doubt.
    let settled = made.mode == wanted.mode && wanted.mode & !PERMISSIONS == 0;
    if !settled || lost.attributes {
        rustix::fs::fchmod(to, wanted.permissions())?;
    }
    rustix::fs::futimens(to, &wanted.times())?;
    Ok(lost)
}

/// The same for the link, FIFO or device `name`, which cannot be opened.
pub(crate) fn copy_to_name(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    meta: &Meta,
    owners: Owners,
) -> Result<Lost> {
    let made = Meta::at(to, name)?;
    let chown = |uid, gid| rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    let (owner, mode) = give_owner(&made, meta, owners, chown)?;
    let attributes = platform::copy_attributes_of_name(from, to, name)?;
    if meta.kind != FileType::Symlink {
        platform::set_mode_of_name(to, name, Meta { mode, ..*meta }.permissions())?;
    }
    rustix::fs::utimensat(to, name, &meta.times(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Lost { owner, attributes })
}

/// Gives the owner where that is wanted and allowed. Returns whether it could not be given, and the mode that is right for
/// the owner it has now: a setuid file of another user must not become one of the caller's.
fn give_owner(
    made: &Meta,
    meta: &Meta,
    owners: Owners,
    chown: impl Fn(Option<Uid>, Option<Gid>) -> Result<()>,
) -> Result<(bool, u32)> {
    if owners == Owners::Caller || (made.uid, made.gid) == (meta.uid, meta.gid) {
        return Ok((false, safe_mode(meta, made.uid, made.gid)));
    }
    let give = |uid: bool, gid: bool| {
        let uid = uid.then(|| Uid::from_raw(meta.uid));
        match chown(uid, gid.then(|| Gid::from_raw(meta.gid))) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::INVAL) => Ok(false),
            Err(error) => Err(error),
        }
    };
    if give(made.uid != meta.uid, made.gid != meta.gid)? {
        return Ok((false, meta.mode));
    }
    // A caller who may not give the owner away may still be in the group.
    let group = made.gid != meta.gid && give(false, true)?;
    let gid = if group { meta.gid } else { made.gid };
    Ok((true, safe_mode(meta, made.uid, gid)))
}

/// The mode of `meta` without the bits that would mean another user or group than they did.
fn safe_mode(meta: &Meta, uid: u32, gid: u32) -> u32 {
    let mut mode = meta.mode;
    if uid != meta.uid {
        mode &= !SETUID;
    }
    if gid != meta.gid {
        mode &= !SETGID;
    }
    mode
}

/// Takes all extended attributes from an open file or directory, as far as the caller may.
pub(crate) fn clear(fd: BorrowedFd<'_>) -> Result<()> {
    for (name, _) in platform::attributes(fd)? {
        match rustix::fs::fremovexattr(fd, &name) {
            // XFS lists an access list under two names.
            Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the open files `a` and `b` carry the same extended attributes.
pub(crate) fn same_attributes(a: impl AsFd, b: impl AsFd) -> Result<bool> {
    Ok(platform::attributes(a.as_fd())? == platform::attributes(b.as_fd())?)
}
