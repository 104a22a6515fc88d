//! Users by `useradd` and `userdel` (package `passwd`).

use crate::config::Config;
use crate::error::Result;
use crate::user::tool;

/// A group of its own, of the same number.
pub(crate) fn default_gid(uid: u32) -> u32 {
    uid
}

/// Makes the user and, where the system has none of that number, its group.
pub(crate) fn create(config: &Config) -> Result<()> {
    let (uid, gid) = (config.uid.to_string(), config.gid().to_string());
    let group = nix::unistd::Group::from_gid(config.gid().into());
    if !matches!(group, Ok(Some(_))) {
        run("groupadd", &["--gid", &gid, &config.user_name])?;
    }
    let home = config.home.to_string_lossy();
    // A system user gets no subordinate ids, no mail box and no home of its own; without a password it is locked.
    let account = ["--system", "--no-create-home", "--no-log-init", "--shell", "/bin/sh"];
    let person =
        ["--uid", &uid, "--gid", &gid, "--home-dir", &home, "--comment", "obuild build user"];
    run("useradd", &[&account[..], &person, &[config.user_name.as_str()]].concat())
}

/// Removes the user and its group.
pub(crate) fn remove(config: &Config) -> Result<()> {
    run("userdel", &[&config.user_name])?;
    let group = nix::unistd::Group::from_name(&config.user_name);
    match group {
        // `userdel` removes it in most configurations.
        Ok(Some(group)) if group.gid.as_raw() == config.gid() => {
            run("groupdel", &[&config.user_name])
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
