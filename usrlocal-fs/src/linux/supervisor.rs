//! What the supervisor does in each system's own way. Everything here is async-signal-safe.

/// Closes every descriptor but `kept`.
pub(crate) fn close_others(kept: i32) {
    let kept = kept as u32;
    // SAFETY: system calls on plain numbers; the process uses no other descriptor.
    unsafe {
        if kept > 0 {
            libc::syscall(libc::SYS_close_range, 0, kept - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, kept + 1, u32::MAX, 0);
    }
}

/// Where this thread's last error is.
pub(crate) fn errno() -> *mut i32 {
    // SAFETY: takes nothing and gives a pointer that is good for this thread.
    unsafe { libc::__errno_location() }
}
