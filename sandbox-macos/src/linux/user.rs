//! Users by `useradd` and `userdel` (package `passwd`).

use crate::error::{Error, Result};
use crate::slot::Slot;
use crate::user::{PERSON, clash, tool};

/// A group of its own, of the same number.
pub(crate) fn default_gid(uid: u32) -> u32 {
    uid
}

/// Makes the user and, where the system has none of that number, its group.
pub(crate) fn create(slot: &Slot) -> Result<()> {
    let (uid, gid) = (slot.user.uid.to_string(), slot.owner().gid.to_string());
    let group = nix::unistd::Group::from_gid(slot.owner().gid.into());
    let group = group.map_err(|error| Error::io(format!("look up group {gid}"))(error))?;
    match group {
        None => run("/usr/sbin/groupadd", &["--gid", &gid, &slot.user.name])?,
        // Nobody has chosen this group, and it may open doors.
        Some(group) if slot.chosen_gid.is_none() && group.name != slot.user.name => {
            let what =
                format!("gid {gid} belongs to `{}`: choose another with `--uid`", group.name);
            return Err(clash(slot, &what));
        }
        Some(_) => {}
    }
    let home = slot.home.to_string_lossy();
    // A system user gets no subordinate ids, no mail box and no home of its own; without a password it is locked.
    let account = ["--system", "--no-create-home", "--no-log-init", "--shell", "/bin/sh"];
    let person = ["--uid", &uid, "--gid", &gid, "--home-dir", &home, "--comment", PERSON];
    run("/usr/sbin/useradd", &[&account[..], &person, &[slot.user.name.as_str()]].concat())
}

/// Removes the user and its group.
pub(crate) fn remove(slot: &Slot) -> Result<()> {
    run("/usr/sbin/userdel", &[&slot.user.name])?;
    let group = nix::unistd::Group::from_name(&slot.user.name);
    match group {
        // `userdel` removes it in most configurations.
        Ok(Some(group)) if group.gid.as_raw() == slot.owner().gid => {
            run("/usr/sbin/groupdel", &[&slot.user.name])
        }
        _ => Ok(()),
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    // Somebody else is changing the user database (1: passwd, 10: group), or a killed process is still being reaped (8).
    tool(program, arguments, |status, stderr| {
        (matches!(status, Some(1 | 10)) && stderr.contains("try again")) || status == Some(8)
    })
}
