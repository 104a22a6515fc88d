//! Extended attributes and ACLs, which `fcopyfile` knows how to carry over.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, Result};

/// Names and values, sorted by name.
pub(crate) type Attributes = Vec<(CString, Vec<u8>)>;

/// All extended attributes of an open file.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> Result<Attributes> {
    let mut names = Vec::with_capacity(65_536);
    match rustix::fs::flistxattr(fd, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let mut all = Vec::new();
    let names = names.split_inclusive(|byte| *byte == 0);
    for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let mut value = Vec::with_capacity(rustix::fs::fgetxattr_query(fd, name)?);
        rustix::fs::fgetxattr(fd, name, spare_capacity(&mut value))?;
        all.push((name.to_owned(), value));
    }
    all.sort_unstable();
    Ok(all)
}

/// Those of a link or FIFO are not looked at.
pub(crate) fn attributes_of_name(_dir: BorrowedFd<'_>, _name: &CStr) -> Result<Attributes> {
    Ok(Vec::new())
}

/// Copies all attributes and the ACL; says whether that was not allowed.
pub(crate) fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool> {
    let what = libc::COPYFILE_ACL | libc::COPYFILE_XATTR;
    // SAFETY: both descriptors are open for the whole call, and a null state is allowed.
    let done =
        unsafe { libc::fcopyfile(from.as_raw_fd(), to.as_raw_fd(), std::ptr::null_mut(), what) };
    if done == 0 {
        return Ok(false);
    }
    let error = std::io::Error::last_os_error();
    match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
        Errno::PERM | Errno::NOTSUP | Errno::ACCESS => Ok(true),
        error => Err(error),
    }
}

/// Those of a link or FIFO are not copied.
pub(crate) fn copy_attributes_of_name(
    _from: BorrowedFd<'_>,
    _to: BorrowedFd<'_>,
    _name: &CStr,
) -> Result<bool> {
    Ok(false)
}

/// An inherited ACL is replaced when the directory gets its own.
pub(crate) fn forget_inherited(_dir: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}
