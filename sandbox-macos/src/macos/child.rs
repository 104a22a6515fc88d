//! System calls of a child between fork and exec.

use std::ffi::c_int;

use nix::libc;

/// Lets exec close every descriptor but the standard streams.
pub(crate) fn close_others_on_exec() -> c_int {
    // SAFETY: sets a flag on descriptors of this process, which is about to exec.
    unsafe {
        for fd in 3..libc::getdtablesize().min(65536) {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    0
}

/// Does nothing: there is no network namespace, and Seatbelt does it, see `confine`.
pub(crate) fn isolate_network() -> c_int {
    0
}

/// Gives every signal its default action.
pub(crate) fn default_actions() {
    for signal in 1..32 {
        // SAFETY: setting the default action touches no memory of ours. The two that cannot be changed do no harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Closes every descriptor.
pub(crate) fn close_all() {
    // SAFETY: the calling process uses no descriptors any more.
    unsafe {
        for fd in 0..libc::getdtablesize().min(65536) {
            libc::close(fd);
        }
    }
}

/// Becomes one who may signal the processes of `uid` and nobody else's. -1 and errno on failure.
///
/// They may signal it too: real and effective user cannot be told apart for good here.
pub(crate) fn become_killer(uid: u32) -> c_int {
    // SAFETY: a plain system call; the process has one thread.
    unsafe { libc::setuid(uid) }
}

/// Sets errno to EPERM; -1.
pub(crate) fn refuse() -> c_int {
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__error() = libc::EPERM };
    -1
}

/// Signals everything this process may signal, itself excepted.
///
/// libc's `kill` asks the kernel for the POSIX way, which differs in whether the caller is hit; the raw call's third
/// argument says no to that.
pub(crate) fn kill_all_others() -> c_int {
    // Darwin's number of `kill` in <sys/syscall.h>.
    const SYS_KILL: c_int = 37;
    // SAFETY: the arguments are those of the system call.
    #[allow(deprecated, reason = "there is no other way to give the third argument")]
    unsafe {
        libc::syscall(SYS_KILL, -1, libc::SIGKILL, 0)
    }
}

/// There are no such keys here: a keychain is a file, and a user who never logs in has none.
pub(crate) fn forget_keys() {}

/// Nothing to prepare here.
pub(crate) fn before_giving_up_root() {}

/// Changing the user leaves nothing to give up here.
pub(crate) fn after_giving_up_root() -> c_int {
    0
}
