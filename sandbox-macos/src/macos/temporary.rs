//! Where everybody may leave files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use obuilder_core::step::Owner;

/// Directories in which anybody may make files.
const DIRS: [&str; 2] = ["/private/tmp", "/private/var/tmp"];
/// Names that `getconf` has for a user's own directories below `/private/var/folders`; no snapshot holds them.
const OWN: [&str; 2] = ["DARWIN_USER_TEMP_DIR", "DARWIN_USER_CACHE_DIR"];

/// What `getconf` has said; it does not change.
static KNOWN: LazyLock<Mutex<HashMap<u32, Vec<PathBuf>>>> = LazyLock::new(Mutex::default);

/// Directories that may hold files of `owner`, outside its home.
pub(crate) fn dirs(owner: Owner) -> Vec<PathBuf> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let own = known
        .entry(owner.uid)
        .or_insert_with(|| OWN.iter().filter_map(|name| own_dir(owner, name)).collect());
    DIRS.iter().map(PathBuf::from).chain(own.iter().cloned()).collect()
}

/// Asks as the user, for whom the system makes the directory then.
fn own_dir(owner: Owner, name: &str) -> Option<PathBuf> {
    let mut command = Command::new("/usr/bin/getconf");
    command.arg(name).env_clear().stdin(Stdio::null()).uid(owner.uid).gid(owner.gid);
    let output = command.current_dir("/").output().ok().filter(|output| output.status.success())?;
    let path = output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout);
    let path = PathBuf::from(OsStr::from_bytes(path));
    // Nothing else must be emptied.
    let below =
        path.strip_prefix("/var/folders").or_else(|_| path.strip_prefix("/private/var/folders"));
    Some(PathBuf::from("/private/var/folders").join(below.ok()?))
}
