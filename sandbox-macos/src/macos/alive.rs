//! Which processes of a user live.

use std::ffi::c_int;
use std::io;

use nix::libc;

use crate::kill::Process;

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

/// The user's processes.
pub(crate) fn list(uid: u32) -> io::Result<Vec<Process>> {
    let mut pids = vec![0 as libc::pid_t; 8192];
    let size = (pids.len() * size_of::<libc::pid_t>()) as c_int;
    // SAFETY: the buffer is as long as we say.
    let bytes = unsafe { libc::proc_listpids(PROC_UID_ONLY, uid, pids.as_mut_ptr().cast(), size) };
    if bytes < 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(bytes).unwrap_or(0) / size_of::<libc::pid_t>();
    let found = pids.into_iter().take(count).filter(|pid| *pid > 1);
    Ok(found.map(|pid| Process { pid, name: None }).collect())
}

/// Kills the process `pid`, which has just been seen to be the user's. As root.
pub(crate) fn kill(pid: libc::pid_t, uid: u32) {
    // Its number may have become somebody else's.
    if list(uid).is_ok_and(|now| now.iter().any(|process| process.pid == pid)) {
        // SAFETY: a plain system call.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}
