//! Which processes of a user live.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::libc;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::kill::Process;

/// Called as root by a process that is to become the user and ask [`others`] then.
pub(crate) fn before_becoming() -> c_int {
    let two = libc::rlimit { rlim_cur: 2, rlim_max: 2 };
    // SAFETY: the limit outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &two) }
}

/// Whether the calling process is not the only one of its user; zombies count.
///
/// `kill(-1)` does not tell: it succeeds whenever there is any process at all. The user's limit of processes
/// does: with a limit of two, this process can fork if and only if it is alone.
pub(crate) fn others() -> bool {
    // SAFETY: plain system calls; the child ends at once.
    unsafe {
        match libc::fork() {
            -1 => true,
            0 => libc::_exit(0),
            child => {
                libc::waitpid(child, std::ptr::null_mut(), 0);
                false
            }
        }
    }
}

/// The user's processes that are more than zombies. Reads all of `/proc`.
pub(crate) fn list(uid: u32) -> io::Result<Vec<Process>> {
    let processes = fs::read_dir("/proc")?.flatten().filter(|entry| real_uid_may_be(entry, uid));
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(processes.filter_map(pid).filter_map(|pid| look(pid, uid)).collect())
}

/// A process that cannot be dumped shows root as its owner.
fn real_uid_may_be(entry: &fs::DirEntry, uid: u32) -> bool {
    let number = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    number && entry.metadata().is_ok_and(|found| found.uid() == uid || found.uid() == 0)
}

/// The process `pid`, if it is the user's and lives.
fn look(pid: libc::pid_t, uid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let real = field("Uid:")?.split_whitespace().next()?;
    let gone = field("State:")?.starts_with(['Z', 'X']);
    let ours = real.parse() == Ok(uid) && !gone;
    ours.then(|| Process { pid, name: Some(field("Name:").unwrap_or("?").to_owned()) })
}

/// Kills the process `pid`, if it is the user's. As root; its number may have become somebody else's, so that what is
/// looked at is what is killed.
pub(crate) fn kill(pid: libc::pid_t, uid: u32) {
    let Some(number) = Pid::from_raw(pid) else { return };
    if let Ok(held) = pidfd_open(number, PidfdFlags::empty())
        && look(pid, uid).is_some()
    {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(held, Signal::KILL);
    }
}
