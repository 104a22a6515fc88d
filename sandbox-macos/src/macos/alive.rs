//! Which processes of a user live.

use std::ffi::c_int;

use nix::libc;

/// `PROC_UID_ONLY` of <sys/proc_info.h>: processes by effective uid.
const PROC_UID_ONLY: u32 = 4;

/// Nothing to prepare here.
pub(crate) fn before_becoming() -> c_int {
    0
}

/// Whether the calling process is not the only one of its user; 0 signals nobody, and fails when nobody is there.
pub(crate) fn others() -> bool {
    const SYS_KILL: c_int = 37;
    // SAFETY: the arguments are those of the system call.
    #[allow(deprecated, reason = "there is no other way to give the third argument")]
    unsafe {
        libc::syscall(SYS_KILL, -1, 0, 0) == 0
    }
}

/// The user's processes, as their numbers.
pub(crate) fn list(uid: u32) -> Vec<String> {
    let mut pids = vec![0 as libc::pid_t; 4096];
    let size = (pids.len() * size_of::<libc::pid_t>()) as c_int;
    // SAFETY: the buffer is as long as we say.
    let bytes = unsafe { libc::proc_listpids(PROC_UID_ONLY, uid, pids.as_mut_ptr().cast(), size) };
    let count = usize::try_from(bytes).unwrap_or(0) / size_of::<libc::pid_t>();
    pids.iter().take(count).filter(|pid| **pid > 0).map(ToString::to_string).collect()
}
