//! Linux.

pub(crate) mod alive;
pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod confine;
pub(crate) mod exit;
mod filter;
pub(crate) mod ipc;
pub(crate) mod keeper;
pub(crate) mod limits;
pub(crate) mod mounted;
pub(crate) mod probe;
mod ruleset;
mod seal;
pub(crate) mod services;
pub(crate) mod temporary;
pub(crate) mod user;
mod world;

/// Empty after each start of the machine, as its processes are gone too.
pub(crate) const LOCK_DIR: &str = "/run/obuild";

/// Where lists of who may leave jobs lie, below `/`.
pub(crate) const JOB_LISTS: &str = "etc";

/// Directories in which anybody may leave files.
pub(crate) const TEMPORARY_DIRS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Where people keep what is theirs.
pub(crate) const PEOPLE: [&str; 3] = ["/home", "/root", "/run/user"];
