//! Users by `useradd` and `userdel` (package `passwd`).

use crate::config::Config;
use crate::error::{Error, Result};
use crate::user::{clash, tool};

/// A group of its own, of the same number.
pub(crate) fn default_gid(uid: u32) -> u32 {
    uid
}

/// Makes the user and, where the system has none of that number, its group.
pub(crate) fn create(config: &Config) -> Result<()> {
    let (uid, gid) = (config.uid.to_string(), config.gid().to_string());
    let group = nix::unistd::Group::from_gid(config.gid().into());
    let group = group.map_err(|error| Error::io(format!("look up group {gid}"))(error))?;
    match group {
        None => run("/usr/sbin/groupadd", &["--gid", &gid, &config.user_name])?,
        // Nobody has chosen this group, and it may open doors.
        Some(group) if config.gid.is_none() && group.name != config.user_name => {
            let what =
                format!("gid {gid} belongs to `{}`: choose another with `--uid`", group.name);
            return Err(clash(config, &what));
        }
        Some(_) => {}
    }
    let home = config.home.to_string_lossy();
    // A system user gets no subordinate ids, no mail box and no home of its own; without a password it is locked.
    let account = ["--system", "--no-create-home", "--no-log-init", "--shell", "/bin/sh"];
    let person =
        ["--uid", &uid, "--gid", &gid, "--home-dir", &home, "--comment", "obuild build user"];
    run("/usr/sbin/useradd", &[&account[..], &person, &[config.user_name.as_str()]].concat())
}

/// Removes the user and its group.
pub(crate) fn remove(config: &Config) -> Result<()> {
    run("/usr/sbin/userdel", &[&config.user_name])?;
    let group = nix::unistd::Group::from_name(&config.user_name);
    match group {
        // `userdel` removes it in most configurations.
        Ok(Some(group)) if group.gid.as_raw() == config.gid() => {
            run("/usr/sbin/groupdel", &[&config.user_name])
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
