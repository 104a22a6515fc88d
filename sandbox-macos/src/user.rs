//! The build user: a user of the system that exists for builds alone.
//!
//! It is made once, by the system's own tools, and kept between builds. It has no password and nobody logs in as it.

use std::ffi::CStr;
use std::fs::DirBuilder;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::libc;
use nix::unistd::{Uid, User};
use obuilder_core::Cancel;
use obuilder_core::step::Owner;

use crate::config::{Account, beside};
use crate::error::{Error, Result};
use crate::kill::{Process, names};
use crate::lock::Lock;
use crate::platform;
use crate::slot::Slot;

/// How often a tool is tried that fails for a passing reason, and how long between.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// The user that runs steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildUser {
    /// Its name.
    pub name: String,
    /// Its number and group.
    pub owner: Owner,
    /// The home that the system knows, which need not be the canonical one.
    pub registered_home: PathBuf,
}

impl BuildUser {
    /// The build user of `slot`, made if it is missing. Needs root, and the user's lock.
    pub(crate) fn ensure(slot: &Slot) -> Result<Self> {
        if let Some(user) = find(slot)? {
            return Ok(user);
        }
        // They would be killed before the first step.
        let strangers = alive(slot)?;
        if !strangers.is_empty() {
            let what = format!(
                "processes run under that uid: {}; choose another with `--uid`",
                names(&strangers)
            );
            return Err(clash(slot, &what));
        }
        let Account { name, uid } = &slot.user;
        tracing::info!(name, uid, "making a build user");
        platform::user::create(slot)?;
        find(slot)?.ok_or_else(|| clash(slot, "it was made and yet cannot be found"))
    }
}

/// What the system notes of a build user's person.
pub(crate) const PERSON: &str = "obuild build user";

/// Numbers of the build users that were made for the home `home`.
pub(crate) fn made_for(home: &Path) -> Vec<u32> {
    /// The list of users has one place for all threads.
    static READING: Mutex<()> = Mutex::new(());
    let _reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::new();
    // SAFETY: nobody else reads the list meanwhile, and an entry is read before the next one is asked for. Its strings end
    // with a null byte.
    unsafe {
        libc::setpwent();
        while let Some(entry) = libc::getpwent().as_ref() {
            let text = |text| CStr::from_ptr(text).to_bytes();
            if text(entry.pw_gecos) == PERSON.as_bytes()
                && text(entry.pw_dir) == home.as_os_str().as_bytes()
            {
                found.push(entry.pw_uid);
            }
        }
        libc::endpwent();
    }
    found
}

/// The processes of the slot's user.
pub(crate) fn alive(slot: &Slot) -> Result<Vec<Process>> {
    let uid = slot.user.uid;
    platform::alive::list(uid).map_err(Error::io(format!("list the processes of uid {uid}")))
}

/// Takes the user for ourselves, telling `waiting` if that takes time.
pub(crate) fn lock(slot: &Slot, cancel: &Cancel, waiting: impl Fn()) -> Result<Lock> {
    make_lock_dir(slot)?;
    Lock::acquire(&slot.lock_path(), cancel, waiting)
}

/// Makes the directory of locks.
pub(crate) fn make_lock_dir(slot: &Slot) -> Result<()> {
    let dir = &slot.lock_dir;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(Error::io(format!("make `{}`", dir.display())))
}

/// Looks the user up, and finds what is in its way.
pub(crate) fn find(slot: &Slot) -> Result<Option<BuildUser>> {
    let Account { name, uid } = &slot.user;
    let uid = *uid;
    let asked = |error: nix::Error| Error::io(format!("look up user `{name}`"))(error);
    if uid == 0 {
        return Err(clash(slot, "uid 0 is root: choose another with `--uid`"));
    }
    let Some(found) = User::from_name(name).map_err(asked)? else {
        return match User::from_uid(Uid::from_raw(uid)).map_err(asked)? {
            Some(other) => Err(clash(
                slot,
                &format!("that uid belongs to `{}`: choose another with `--uid`", other.name),
            )),
            None => Ok(None),
        };
    };
    if found.uid.as_raw() != uid {
        let what = format!("`{name}` has uid {}: use `--uid {0}` or another name", found.uid);
        return Err(clash(slot, &what));
    }
    if let Some(what) = a_persons_home(slot, &found.dir) {
        return Err(clash(slot, &what));
    }
    let owner = slot.owner();
    Ok(Some(BuildUser { name: found.name, owner, registered_home: found.dir }))
}

/// All of a build user's processes are killed, so somebody who lives here must never be taken for one.
fn a_persons_home(slot: &Slot, registered: &Path) -> Option<String> {
    let ours = registered == slot.home || beside(registered, ".lock").exists();
    (!ours && registered.is_dir()).then(|| {
        let (name, home) = (&slot.user.name, registered.display());
        format!("`{name}` has a home of its own, `{home}`, and so is no build user: choose another name and uid")
    })
}

pub(crate) fn clash(slot: &Slot, what: &str) -> Error {
    let Account { name, uid } = slot.user.clone();
    Error::UserClash { name, uid, clash: what.to_owned() }
}

/// Runs a system tool, again while `passing` says of its exit status and message that the failure will pass.
pub(crate) fn tool(
    program: &str,
    arguments: &[&str],
    passing: impl Fn(Option<i32>, &str) -> bool,
) -> Result<()> {
    let line = || format!("{program} {}", arguments.join(" "));
    for attempt in 1.. {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").args(arguments).stdin(Stdio::null());
        let output = command.output();
        let output = output.map_err(Error::io(format!("run `{}`", line())))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        if attempt >= ATTEMPTS || !passing(output.status.code(), &stderr) {
            let status = output.status.to_string();
            return Err(Error::Tool { command: line(), status, stderr });
        }
        std::thread::sleep(PAUSE);
    }
    unreachable!("the last attempt returns")
}

/// Whether `owner` may pass through all directories above `home`; the one that is closed.
pub(crate) fn closed_ancestor(home: &Path, owner: Owner) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let closed = |dir: &Path| {
        let Ok(found) = dir.metadata() else { return false };
        let bit = match (found.uid() == owner.uid, found.gid() == owner.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        found.mode() & bit == 0
    };
    home.ancestors().skip(1).find(|dir| closed(dir)).map(Path::to_owned)
}
