//! System calls of a child between fork and exec.

use std::ffi::c_int;
use std::mem;

use nix::libc;

/// Lets exec close every descriptor but the standard streams. -1 and errno on failure.
pub(crate) fn close_others_on_exec() -> c_int {
    // SAFETY: sets a flag on descriptors of this process, which is about to exec.
    unsafe {
        let done = libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if done == 0 {
            return 0;
        }
        // Before Linux 5.11, or where a filter does not know the call.
        for fd in 3..libc::sysconf(libc::_SC_OPEN_MAX).min(65536) {
            libc::fcntl(fd as c_int, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    0
}

/// Moves to a network of its own, with nothing but the loopback. -1 and errno on failure.
pub(crate) fn isolate_network() -> c_int {
    // SAFETY: the request names `lo` and outlives the call; the socket is closed on exec.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) == -1 {
            return -1;
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &request)
    }
}

/// Closes every descriptor.
pub(crate) fn close_all() {
    // SAFETY: the calling process uses no descriptors any more.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
            for fd in 0..libc::sysconf(libc::_SC_OPEN_MAX).min(65536) {
                libc::close(fd as c_int);
            }
        }
    }
}

/// Becomes one who may signal the processes of `uid` and nobody else's. -1 and errno on failure.
///
/// They, in turn, may not signal or stop it: whom a process may signal is up to its effective user, and who may signal
/// it, to its real and saved ones. These two become a number that nobody has and no other killer takes.
pub(crate) fn become_killer(uid: u32) -> c_int {
    let nobody = u32::MAX - 1 - uid;
    // SAFETY: plain system calls; the process has one thread.
    unsafe {
        // A user namespace may not know the number.
        if uid > u32::MAX / 4 || libc::setresuid(nobody, uid, nobody) == -1 {
            return libc::setuid(uid);
        }
    }
    0
}

/// Sets errno to EPERM; -1.
pub(crate) fn refuse() -> c_int {
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = libc::EPERM };
    -1
}

/// Signals everything this process may signal, itself excepted.
pub(crate) fn kill_all_others() -> c_int {
    // SAFETY: a plain system call.
    unsafe { libc::kill(-1, libc::SIGKILL) }
}
