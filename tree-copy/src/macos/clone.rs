//! Making a file, and sharing the contents of another to be copied on write.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{CloneFlags, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Makes the new file `name` and, when `clone` is asked, lets it share the contents of `from`.
/// Returns it open, and why it is still empty if it is.
pub(crate) fn make_file(
    from: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    clone: bool,
    mode: Mode,
) -> Result<(OwnedFd, Result<()>)> {
    let cloned = if clone {
        rustix::fs::fclonefileat(from, dir, name, CloneFlags::empty())
    } else {
        Err(Errno::NOTSUP)
    };
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = match cloned {
        // A clone has the mode of its original, which may forbid writing; metadata needs no more than this.
        Ok(()) => flags | OFlags::RDONLY,
        Err(_) => flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
    };
    let to = rustix::fs::openat(dir, name, flags, mode)?;
    Ok((to, cloned))
}

/// There is no call for it between two files.
pub(crate) fn send(_from: BorrowedFd<'_>, _to: BorrowedFd<'_>, _most: usize) -> Result<usize> {
    Err(Errno::NOSYS)
}
