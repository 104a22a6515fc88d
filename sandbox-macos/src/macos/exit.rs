//! A descriptor that tells of a child's end.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::libc;

/// Becomes readable when the child `pid` has ended: a kqueue with one `NOTE_EXIT`.
pub(crate) fn watch(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: `kqueue` returns a new descriptor; the event outlives the call, and none is asked for in return.
    unsafe {
        let queue = libc::kqueue();
        if queue == -1 {
            return Err(io::Error::last_os_error());
        }
        let queue = OwnedFd::from_raw_fd(queue);
        let event = |filter, fflags| libc::kevent {
            ident: pid as usize,
            filter,
            flags: libc::EV_ADD | libc::EV_ONESHOT,
            fflags,
            data: 0,
            udata: ptr::null_mut(),
        };
        let exit = event(libc::EVFILT_PROC, libc::NOTE_EXIT);
        if libc::kevent(queue.as_raw_fd(), &exit, 1, ptr::null_mut(), 0, ptr::null()) == -1 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ESRCH) {
                return Err(error);
            }
            // It has ended already: a timer that fires at once says so.
            let now = event(libc::EVFILT_TIMER, 0);
            libc::kevent(queue.as_raw_fd(), &now, 1, ptr::null_mut(), 0, ptr::null());
        }
        Ok(queue)
    }
}
