//! Making a file, and bringing the contents of another into it: shared to be copied on write, or as bytes.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

/// Makes the new file `name` and, when `clone` is asked, lets it share the contents of `from`.
/// Returns it open for writing, and why it is still empty if it is.
pub(crate) fn make_file(
    from: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    clone: bool,
    mode: Mode,
) -> Result<(OwnedFd, Result<()>)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(dir, name, flags, mode)?;
    let cloned = if clone { rustix::fs::ioctl_ficlone(&to, from) } else { Err(Errno::NOTSUP) };
    Ok((to, cloned))
}

/// Copies at most `most` bytes, from where the one file stands to where the other stands, without a way through our
/// memory. Unlike `copy_file_range` it never shares blocks.
pub(crate) fn send(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> Result<usize> {
    rustix::fs::sendfile(to, from, None, most)
}
