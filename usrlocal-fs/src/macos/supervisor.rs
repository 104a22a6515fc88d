//! What the supervisor does in each system's own way. Everything here is async-signal-safe.

/// Closes every descriptor but `kept`, as far as the system's usual limit.
pub(crate) fn close_others(kept: i32) {
    for fd in (0..10_240).filter(|fd| *fd != kept) {
        // SAFETY: a system call on a plain number; the process uses no other descriptor.
        unsafe {
            libc::close(fd);
        }
    }
}

/// Where this thread's last error is.
pub(crate) fn errno() -> *mut i32 {
    // SAFETY: takes nothing and gives a pointer that is good for this thread.
    unsafe { libc::__error() }
}
