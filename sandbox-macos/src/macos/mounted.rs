//! What is mounted.

use std::ffi::{CStr, CString, OsStr, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{mem, ptr};

use nix::libc;

/// Where something is mounted, in the order of mounting.
pub(crate) fn points() -> io::Result<Vec<PathBuf>> {
    // SAFETY: without a buffer, it only counts; then the buffer is as long as we say.
    let (found, count) = unsafe {
        let count = libc::getfsstat(ptr::null_mut(), 0, libc::MNT_NOWAIT);
        let room = usize::try_from(count).map_err(|_| io::Error::last_os_error())? + 16;
        let mut found: Vec<libc::statfs> = vec![mem::zeroed(); room];
        let size = (room * size_of::<libc::statfs>()) as c_int;
        let count = libc::getfsstat(found.as_mut_ptr(), size, libc::MNT_NOWAIT);
        (found, usize::try_from(count).map_err(|_| io::Error::last_os_error())?)
    };
    let path = |found: &libc::statfs| {
        // SAFETY: the kernel ends the name with a null byte.
        let name = unsafe { CStr::from_ptr(found.f_mntonname.as_ptr()) };
        PathBuf::from(OsStr::from_bytes(name.to_bytes()))
    };
    Ok(found.iter().take(count).map(path).collect())
}

/// Unmounts it at once, even if it is in use.
pub(crate) fn unmount(point: &Path) -> io::Result<()> {
    let point = CString::new(point.as_os_str().as_bytes())?;
    // SAFETY: the string ends with a null byte.
    match unsafe { libc::unmount(point.as_ptr(), libc::MNT_FORCE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
