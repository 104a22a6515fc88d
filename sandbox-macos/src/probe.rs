//! What the system has to confine steps with, found out by trying; and what a killed run has left.
//!
//! Nothing here changes anything.

use crate::launch::{Running, fork};
use crate::platform;

pub use crate::leavings::{Leaving, leavings};

/// One means to confine a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Means {
    /// What it is called, such as `Landlock`.
    pub name: &'static str,
    /// How it was found to work, or why it does not.
    pub found: Result<String, String>,
    /// What a person can do about it where it does not work.
    pub remedy: &'static str,
}

/// The means that this system may have.
pub fn means() -> Vec<Means> {
    platform::probe::means()
}

/// Does `act` in a child, so that this process stays what it is, and says whether it succeeded.
#[cfg_attr(target_os = "macos", allow(dead_code, reason = "nothing there has to be tried so"))]
pub(crate) fn in_child(act: impl FnOnce() -> bool) -> bool {
    let try_it = || {
        let status = if act() { 0 } else { 1 };
        // SAFETY: ends this process.
        unsafe { nix::libc::_exit(status) }
    };
    // SAFETY: callers only make system calls in `act`, which never returns from the child.
    let tried = unsafe { fork(try_it) };
    tried.and_then(|pid| Running { pid, keeper: None }.reap()).is_ok_and(|status| status == 0)
}
