//! macOS. Nothing here has run on a Mac yet; each part names the fact it relies on.

pub(crate) mod alive;
pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod confine;
pub(crate) mod exit;
pub(crate) mod ipc;
pub(crate) mod keeper;
pub(crate) mod limits;
pub(crate) mod mounted;
pub(crate) mod probe;
pub(crate) mod services;
pub(crate) mod temporary;
pub(crate) mod user;

/// Emptied when the machine starts.
pub(crate) const LOCK_DIR: &str = "/var/run/obuild";

/// Where lists of who may leave jobs lie, below `/`.
pub(crate) const JOB_LISTS: &str = "usr/lib/cron";

/// Directories in which anybody may leave files, by their real names.
pub(crate) const TEMPORARY_DIRS: [&str; 2] = ["/private/tmp", "/private/var/tmp"];

/// Where people keep what is theirs.
pub(crate) const PEOPLE: [&str; 2] = ["/Users", "/private/var/root"];
