//! Limits of a process, as macOS has them.

use std::ffi::c_int;

use nix::libc::{self, RLIM_INFINITY, rlim_t};

/// Most bytes of a core file.
pub(crate) const CORE: rlim_t = 0;

/// The kernel takes limits of memory and does not enforce them.
pub(crate) const OWN_MEMORY: Option<c_int> = None;

/// Soft and hard limits that are the same for every step. Files: launchd's 256 are too few for builds, and libc refuses more
/// than `OPEN_MAX` (10240) as a soft limit.
pub(crate) const OTHERS: [(c_int, rlim_t, rlim_t); 3] = [
    (libc::RLIMIT_DATA as c_int, RLIM_INFINITY, RLIM_INFINITY),
    (libc::RLIMIT_STACK as c_int, 8 << 20, 64 << 20),
    (libc::RLIMIT_NOFILE as c_int, 10_240, RLIM_INFINITY),
];
