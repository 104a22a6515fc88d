//! Extended attributes; POSIX ACLs are two of them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

/// Names and values, sorted by name.
pub(crate) type Attributes = Vec<(CString, Vec<u8>)>;

const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// Names worth copying. The rest of `system.` is another view of what is copied anyway.
fn copied(name: &CStr) -> bool {
    !name.to_bytes().starts_with(b"system.") || ACLS.contains(&name)
}

/// All attributes of an open file.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> Result<Attributes> {
    let mut names = [0_u8; 1024];
    match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(0) | Err(Errno::NOTSUP) => Ok(Vec::new()),
        Ok(len) => read_all(&names[..len], |name, value| {
            rustix::fs::fgetxattr(fd, name, spare_capacity(value))
        }),
        Err(Errno::RANGE) => {
            let mut names = Vec::with_capacity(65_536);
            rustix::fs::flistxattr(fd, spare_capacity(&mut names))?;
            read_all(&names, |name, value| rustix::fs::fgetxattr(fd, name, spare_capacity(value)))
        }
        Err(error) => Err(error),
    }
}

/// All attributes of `name` in `dir` itself, were it a link.
pub(crate) fn attributes_of_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<Attributes> {
    let path = through_proc(dir, name);
    let mut names = Vec::with_capacity(4096);
    let listed = rustix::fs::llistxattr(&path, spare_capacity(&mut names));
    match listed {
        // Without /proc there is no way to them.
        Err(Errno::NOTSUP | Errno::NOENT | Errno::PERM) => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(_) => read_all(&names, |name, value| {
            rustix::fs::lgetxattr(&path, name, spare_capacity(value))
        }),
    }
}

fn read_all(
    names: &[u8],
    mut read: impl FnMut(&CStr, &mut Vec<u8>) -> Result<usize>,
) -> Result<Attributes> {
    let mut all = Vec::new();
    let names = names.split_inclusive(|byte| *byte == 0);
    for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        if !copied(name) {
            continue;
        }
        let mut value = Vec::with_capacity(256);
        let mut done = read(name, &mut value);
        if done == Err(Errno::RANGE) {
            value = Vec::with_capacity(65_536);
            done = read(name, &mut value);
        }
        match done {
            Ok(_) => all.push((name.to_owned(), value)),
            // Gone since it was listed, or not for our eyes.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Copies all attributes; says whether some could not be set because the caller or the filesystem does not allow them.
pub(crate) fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool> {
    set_all(attributes(from)?, |name, value| {
        rustix::fs::fsetxattr(to, name, value, XattrFlags::empty())
    })
}

/// The same for `name` in two directories.
pub(crate) fn copy_attributes_of_name(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
) -> Result<bool> {
    let attributes = attributes_of_name(from, name)?;
    if attributes.is_empty() {
        return Ok(false);
    }
    let path = through_proc(to, name);
    set_all(attributes, |name, value| {
        rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty())
    })
}

fn set_all(
    attributes: Attributes,
    mut set: impl FnMut(&CStr, &[u8]) -> Result<()>,
) -> Result<bool> {
    let mut lost = false;
    // From the last name back: `user.` comes before `system.`, whose ACLs may take the caller's right to write.
    for (name, value) in attributes.into_iter().rev() {
        match set(&name, &value) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::NOTSUP | Errno::ACCESS) => lost = true,
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Removes the ACLs that a new directory got from its parent.
pub(crate) fn forget_inherited(dir: BorrowedFd<'_>) -> Result<()> {
    for acl in ACLS {
        match rustix::fs::fremovexattr(dir, acl) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The path by which calls that know no directory descriptors reach `name` in `dir`.
pub(super) fn through_proc(dir: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(path))
}
