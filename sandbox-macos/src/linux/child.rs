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

/// Gives every signal its default action; also the two that libc keeps for itself, and lets nobody change.
pub(crate) fn default_actions() {
    /// The size of the kernel's set of signals.
    const SET: usize = 8;
    // Handler, flags, restorer and mask; all zero is the default action.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the action is as large as the kernel's and outlives the call. The two that cannot be changed do no harm.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0_usize, SET);
        }
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

/// Makes sure that changing the user gives up all of root, and that nothing spares the step when memory runs out.
pub(crate) fn before_giving_up_root() {
    // SAFETY: plain system calls; the string ends with a null byte, and the buffers are as long as we say.
    unsafe {
        libc::prctl(libc::PR_SET_SECUREBITS, 0, 0, 0, 0);
        let score =
            libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let mut first = [0_u8; 1];
        // A service may be worth more than others; its steps are not.
        if libc::read(score, first.as_mut_ptr().cast(), 1) == 1 && first == *b"-" {
            libc::write(score, b"0".as_ptr().cast(), 1);
        }
        libc::close(score);
    }
}

/// Empties the keyrings of the calling process's user, which outlive its processes.
pub(crate) fn forget_keys() {
    // `KEYCTL_CLEAR`, `KEY_SPEC_USER_KEYRING` and `KEY_SPEC_USER_SESSION_KEYRING` of <linux/keyctl.h>.
    const CLEAR: libc::c_long = 7;
    for keyring in [-4 as libc::c_long, -5] {
        // SAFETY: a plain system call. A kernel may have no keys, and a filter may refuse this.
        unsafe { libc::syscall(libc::SYS_keyctl, CLEAR, keyring) };
    }
}

/// Gives up capabilities that a change of the user leaves, and the caller's keys. -1 and errno on failure.
pub(crate) fn after_giving_up_root() -> c_int {
    // `_LINUX_CAPABILITY_VERSION_3` of <linux/capability.h>, for this process; then effective, permitted and inheritable
    // sets, twice 32 bits each.
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // `KEYCTL_JOIN_SESSION_KEYRING` of <linux/keyctl.h>; without a name, a new one.
    const JOIN: libc::c_long = 1;
    // SAFETY: plain system calls with pointers to locals of the right size.
    unsafe {
        // A filter may refuse this.
        libc::syscall(libc::SYS_keyctl, JOIN, 0_usize);
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) as c_int
    }
}
