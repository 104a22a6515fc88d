//! The last thing a child does to itself: what it gives up as the user that it has become.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;

use super::filter::Filter;
use super::ruleset;
use crate::confine::Confined;
use crate::policy::Policy;

/// All that is given up, made ready before the fork.
///
/// In a world of mounts there is no ruleset: it would cost about half a millisecond for each step and keep it from mounting anything, and
/// plain permissions keep a build user from the processes of others already.
#[derive(Debug)]
pub(crate) struct Seal {
    filter: Option<Filter>,
    ruleset: Option<OwnedFd>,
}

impl Seal {
    /// The seal of a step that has this policy, and whose tree has been placed.
    pub(crate) fn new(step: &Confined<'_>, policy: &Policy) -> io::Result<Self> {
        let wanted = !step.has_world && ruleset::is_there();
        let ruleset = if wanted { ruleset::of(step, policy)? } else { None };
        Ok(Self { filter: Filter::new(), ruleset })
    }

    /// Gives it all up. -1 and errno on failure. Only makes system calls.
    pub(crate) fn set(&self) -> c_int {
        // SAFETY: plain system calls. The descriptor is open, and closed by exec.
        unsafe {
            // No program is setuid for the step; without this, neither of the others may be set.
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1 {
                return -1;
            }
            if let Some(ruleset) = &self.ruleset
                && libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) == -1
            {
                return -1;
            }
        }
        self.filter.as_ref().map_or(0, Filter::set)
    }
}
