//! A descriptor that tells of a child's end.

use std::io;
use std::os::fd::OwnedFd;

use nix::libc;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Becomes readable when the child `pid` has ended.
pub(crate) fn watch(pid: libc::pid_t) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
