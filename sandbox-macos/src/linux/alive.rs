//! Which processes of a user live.

use std::ffi::c_int;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::libc;

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

/// The user's processes that are more than zombies, as `PID (NAME)`. Reads all of `/proc`.
pub(crate) fn list(uid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec!["(no /proc)".to_owned()] };
    let processes = entries.flatten().filter(|entry| {
        let number = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        number && real_uid_may_be(entry, uid)
    });
    processes.filter_map(|entry| describe(&entry, uid)).collect()
}

/// A process that cannot be dumped shows root as its owner.
fn real_uid_may_be(entry: &fs::DirEntry, uid: u32) -> bool {
    entry.metadata().is_ok_and(|found| found.uid() == uid || found.uid() == 0)
}

fn describe(entry: &fs::DirEntry, uid: u32) -> Option<String> {
    let status = fs::read_to_string(entry.path().join("status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let real = field("Uid:")?.split_whitespace().next()?;
    let gone = field("State:")?.starts_with(['Z', 'X']);
    let ours = real.parse() == Ok(uid) && !gone;
    ours.then(|| format!("{} ({})", entry.file_name().display(), field("Name:").unwrap_or("?")))
}
