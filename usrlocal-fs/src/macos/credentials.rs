//! Doing something with the rights of a caller, in this thread alone.

use rustix::fs::Mode;
use rustix::io::{Errno, Result};

use crate::call::Caller;

/// What gives a thread the rights of its process back.
const OWN: u32 = u32::MAX - 100;

unsafe extern "C" {
    fn pthread_setugid_np(uid: libc::uid_t, gid: libc::gid_t) -> libc::c_int;
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: plain numbers, and they concern this thread alone.
        unsafe { pthread_setugid_np(OWN, OWN) };
    }
}

/// Runs `work` with the file rights of `caller`; the system knows the groups of a uid.
pub(crate) fn as_caller<T>(caller: Caller, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    if caller.uid == 0 && caller.gid == 0 {
        return work();
    }
    // SAFETY: plain numbers, and they concern this thread alone; the guard undoes it.
    if unsafe { pthread_setugid_np(caller.uid, caller.gid) } != 0 {
        return Err(Errno::PERM);
    }
    let _restore = Restore;
    work()
}

/// The same: groups make no difference to it here.
pub(crate) fn as_caller_in_groups<T>(caller: Caller, work: impl FnMut() -> Result<T>) -> Result<T> {
    as_caller(caller, work)
}

/// The kernel has applied the caller's umask; ours, which all threads share, must not do so again.
pub(crate) fn set_umask(_umask: u32) -> Result<()> {
    rustix::process::umask(Mode::empty());
    Ok(())
}
