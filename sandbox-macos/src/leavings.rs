//! What a killed run has left of steps, as one who only looks sees it. The next step that runs clears most of it away.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rustix::fs::{FlockOperation, flock};

use crate::config::{Config, beside};
use crate::error::{Error, Result};
use crate::kill::names;
use crate::platform::mounted;
use crate::slot::Slot;
use crate::user;

/// One thing that should not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// What it is, and where.
    pub what: String,
    /// What a person can do about it.
    pub remedy: String,
}

/// What is left of steps that run no more. What belongs to a step that runs now, or cannot be seen by the calling user, is
/// not among it.
pub fn leavings(config: &Config) -> Result<Vec<Leaving>> {
    let slots = match geteuid().is_root() {
        true => config.slots(),
        false => vec![Slot::callers(config)],
    };
    let mut found = Vec::new();
    for slot in &slots {
        let user_in_use = is_locked(&slot.lock_path());
        // A number that belongs to somebody else is a matter of another check.
        let ours = matches!(user::find(slot), Ok(Some(_)));
        if geteuid().is_root() && ours && !user_in_use {
            found.extend(processes(slot)?);
        }
        if !user_in_use && !is_locked(&slot.beside(".lock")) {
            found.extend(places(slot)?);
        }
        found.extend(stuck(&slot.place)?);
    }
    if slots.iter().all(|slot| slot.place != config.home) {
        found.extend(stuck(&config.home)?);
    }
    Ok(found)
}

fn processes(slot: &Slot) -> Result<Option<Leaving>> {
    let uid = slot.user.uid;
    let processes = user::alive(slot)?;
    Ok((!processes.is_empty()).then(|| Leaving {
        what: format!("`{}` runs no step, and has processes {}", slot.user.name, names(&processes)),
        remedy: format!("`pkill -KILL -u {uid}`; the next step does so too"),
    }))
}

/// The tree, what stands beside it, and what is mounted there.
fn places(slot: &Slot) -> Result<Vec<Leaving>> {
    let paths = ["", ".tmp", ".secrets", ".aside"].map(|suffix| slot.beside(suffix));
    let points = mounted::points().map_err(Error::io("list what is mounted"))?;
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| is_filled(path)) {
        if !is_ours(slot, path) {
            let path = path.display();
            found.push(Leaving {
                what: format!("`{path}` stands where trees are placed, and no build left it there; no step can run"),
                remedy: "move it away, or choose another --home".to_owned(),
            });
            continue;
        }
        found.push(Leaving {
            what: format!("`{}` was left by a step", path.display()),
            remedy: "the next step clears it: `obuild healthcheck`".to_owned(),
        });
    }
    for point in points.iter().filter(|point| paths.iter().any(|path| point.starts_with(path))) {
        found.push(Leaving {
            what: format!("something is mounted at `{}`", point.display()),
            remedy: format!("`umount '{}'`; the next step does so too", point.display()),
        });
    }
    Ok(found)
}

/// What could not be removed stands as `HOME.stuck-N`.
fn stuck(home: &Path) -> Result<Vec<Leaving>> {
    let (Some(dir), prefix) = (home.parent(), beside(home, ".stuck-")) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(format!("read `{}`", dir.display())))?,
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let is_stuck = |path: &PathBuf| {
        path.to_string_lossy().strip_prefix(&*prefix.to_string_lossy()).is_some_and(is_number)
    };
    let leaving = |path: PathBuf| Leaving {
        what: format!("`{}` could not be removed", path.display()),
        remedy: format!("find out why, then `rm -rf '{}'`", path.display()),
    };
    Ok(paths.filter(is_stuck).map(leaving).collect())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a step may have left it: without a build user that cannot be told from the outside.
fn is_ours(slot: &Slot, path: &Path) -> bool {
    let owner = path.symlink_metadata().map(|found| found.uid());
    let aside = path == slot.beside(".aside");
    !geteuid().is_root() || aside || owner.is_ok_and(|uid| slot.uids.contains(&uid))
}

/// Whether there is anything but an empty directory, which is what several slots show their homes at.
fn is_filled(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.symlink_metadata().is_ok(),
    }
}

/// Whether a running step holds the lock. A step that takes it in this very instant looks again a moment later.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}
