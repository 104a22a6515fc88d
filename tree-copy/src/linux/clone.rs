//! Making a file, and sharing the contents of another to be copied on write.

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
) -> Result<(OwnedFd, Result<()>)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    let cloned = if clone { rustix::fs::ioctl_ficlone(&to, from) } else { Err(Errno::NOTSUP) };
    Ok((to, cloned))
}
