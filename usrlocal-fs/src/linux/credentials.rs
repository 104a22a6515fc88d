//! Doing something with the rights of a caller, in this thread alone.

use std::cell::Cell;
use std::fs;

use rustix::fs::Mode;
use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, UnshareFlags, capabilities, set_capabilities, set_thread_groups,
};

use crate::call::Caller;

thread_local! {
    static READY: Cell<bool> = const { Cell::new(false) };
}

/// Prepares this thread once: a umask of its own, no groups but the caller's, and no use of what disks and quotas keep back.
fn prepare() -> Result<()> {
    if READY.get() {
        return Ok(());
    }
    // SAFETY: only the umask and the current directory stop being shared with the other threads, and nothing here
    // relies on their being shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
    rustix::process::umask(Mode::empty());
    set_thread_groups(&[])?;
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, sets)?;
    READY.set(true);
    Ok(())
}

/// Gives root its rights back, whatever happens.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: these calls take plain numbers and concern this thread alone.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(0);
        }
    }
}

/// Runs `work` with the file rights of `caller`, with its other groups where that makes a difference.
pub(crate) fn as_caller<T>(caller: Caller, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    prepare()?;
    if caller.uid == 0 && caller.gid == 0 {
        return work();
    }
    let first = attempt(caller, &mut work);
    match first {
        Err(Errno::ACCESS | Errno::PERM) if caller.uid != 0 => {
            let groups = groups(caller.pid);
            if groups.is_empty() { first } else { with_groups(caller, &groups, &mut work) }
        }
        result => result,
    }
}

/// The same, with all the caller's groups from the start: for what goes another way instead of failing.
pub(crate) fn as_caller_in_groups<T>(
    caller: Caller,
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    prepare()?;
    with_groups(caller, &groups(caller.pid), &mut work)
}

/// Sets this thread's umask for what it makes next.
pub(crate) fn set_umask(umask: u32) -> Result<()> {
    prepare()?;
    rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    Ok(())
}

fn attempt<T>(caller: Caller, work: &mut impl FnMut() -> Result<T>) -> Result<T> {
    let _restore = Restore;
    // SAFETY: plain numbers, this thread alone; the guard undoes it.
    unsafe {
        libc::setfsgid(caller.gid);
        libc::setfsuid(caller.uid);
    }
    work()
}

fn with_groups<T>(
    caller: Caller,
    groups: &[u32],
    work: &mut impl FnMut() -> Result<T>,
) -> Result<T> {
    let groups: Vec<_> = groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)?;
    let result = attempt(caller, work);
    set_thread_groups(&[])?;
    result
}

/// The supplementary groups of a process; none when it is gone.
fn groups(pid: u32) -> Vec<u32> {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return Vec::new();
    };
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}
