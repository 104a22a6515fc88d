//! Who runs steps.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::User;
use sandbox_macos::{Account, Isolation};

use super::check::Check;
use super::subject::Subject;
use crate::error::CommandError;
use crate::settings::Key;

/// The checks on users.
pub(super) fn checks(subject: &Subject<'_>) -> Result<Vec<Check>, CommandError> {
    if !subject.root {
        return Ok(vec![Check::weak(
            "isolation",
            "steps run as the calling user and can touch whatever it can",
            "run obuild as root to give steps a user of their own",
        )]);
    }
    let users = subject.settings.users()?;
    let mut checks = vec![isolation(subject, users.len())];
    checks.extend(users.iter().map(build_user));
    checks.push(path_to_home(&subject.home));
    Ok(checks)
}

fn isolation(subject: &Subject<'_>, slots: usize) -> Check {
    const NAME: &str = "isolation";
    let users = match slots {
        1 => "steps run as a build user of their own".to_owned(),
        slots => format!("steps run as one of {slots} build users, as many at once"),
    };
    match subject.settings.isolation() {
        Isolation::Full => Check::ok(NAME, users),
        Isolation::Users => Check::weak(
            NAME,
            format!(
                "{users}, and are kept apart by nothing more ({})",
                subject.settings.of(Key::Isolation).1
            ),
            "--isolation=full uses all that the system has",
        ),
    }
}

fn build_user(user: &Account) -> Check {
    const NAME: &str = "build user";
    let Account { name, uid } = user;
    let by_name = User::from_name(name).ok().flatten();
    let by_uid = User::from_uid((*uid).into()).ok().flatten();
    match (by_name, by_uid) {
        (Some(user), _) if user.uid.as_raw() == *uid => {
            Check::ok(NAME, format!("`{name}` ({uid}) is there"))
        }
        (Some(user), _) => Check::broken(
            NAME,
            format!("`{name}` has the number {}, not {uid}", user.uid),
            "choose another --uid or --user-prefix",
        ),
        (None, Some(user)) => Check::broken(
            NAME,
            format!("the number {uid} belongs to `{}`", user.name),
            "choose another --uid",
        ),
        (None, None) => Check::ok(
            NAME,
            format!("`{name}` ({uid}) is made by the first step that needs it, or `obuild setup`"),
        ),
    }
}

/// The build user must be able to walk to its home.
fn path_to_home(home: &Path) -> Check {
    const NAME: &str = "path to home";
    let closed = home
        .ancestors()
        .skip(1)
        .find(|dir| dir.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 == 0));
    match closed {
        None => Check::ok(NAME, format!("a build user can reach `{}`", home.display())),
        Some(dir) => Check::broken(
            NAME,
            format!("a build user cannot pass through `{}`", dir.display()),
            format!("chmod o+x {}, or choose another --home", dir.display()),
        ),
    }
}
