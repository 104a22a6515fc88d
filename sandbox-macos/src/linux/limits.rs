//! Limits of a process, as Linux has them.

use std::ffi::c_int;

use nix::libc::{self, RLIM_INFINITY, rlim_t};

/// Most bytes of a core file. Zero does not keep a core from a program that collects them; one does.
pub(crate) const CORE: rlim_t = 1;

/// Bounds the memory of one process. (Of its address space, which some runtimes reserve by the terabyte, it would not do.)
pub(crate) const OWN_MEMORY: Option<c_int> = Some(libc::RLIMIT_DATA as c_int);

/// Soft and hard limits that are the same for every step: those of a fresh system.
pub(crate) const OTHERS: [(c_int, rlim_t, rlim_t); 8] = [
    (libc::RLIMIT_AS as c_int, RLIM_INFINITY, RLIM_INFINITY),
    (libc::RLIMIT_RSS as c_int, RLIM_INFINITY, RLIM_INFINITY),
    (libc::RLIMIT_STACK as c_int, 8 << 20, RLIM_INFINITY),
    (libc::RLIMIT_NOFILE as c_int, 1024, 524_288),
    (libc::RLIMIT_MEMLOCK as c_int, 8 << 20, 8 << 20),
    (libc::RLIMIT_MSGQUEUE as c_int, 819_200, 819_200),
    (libc::RLIMIT_NICE as c_int, 0, 0),
    (libc::RLIMIT_RTPRIO as c_int, 0, 0),
];
