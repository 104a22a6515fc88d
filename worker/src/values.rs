//! What options may say: asked before anything is begun, or a service installed that could not begin.

use std::path::Path;

use sandbox_macos::{Account, Isolation};
use store_rsync::Mode;

use crate::Stop;
use crate::options::Options;

/// Says what is wrong with the first option that is.
pub(crate) fn check(options: &Options) -> Result<(), Stop> {
    let wrong = |name: &str, why: String| Stop::usage(format!("--{name}: {why}"));
    let slots = options.slots.unwrap_or(1);
    if !(1..=Account::MOST).contains(&slots) {
        let why = format!("`{slots}` is not a number from 1 to {}", Account::MOST);
        return Err(wrong("slots", why));
    }
    match options.uid {
        Some(0) => return Err(wrong("uid", "a build user must not be root (0)".into())),
        Some(first) if first.checked_add(slots).is_none() => {
            return Err(wrong("uid", format!("there are no {slots} users from {first} on")));
        }
        _ => {}
    }
    let prefix = options.user_prefix.as_deref();
    if let Some(prefix) = prefix.filter(|prefix| !Account::may_begin_with(prefix)) {
        let why = "cannot begin a user name: lower-case letters, digits, `_` and `-`";
        return Err(wrong("user-prefix", format!("`{prefix}` {why}")));
    }
    isolation(options)?;
    mode(options)?;
    crate::backend::store_url(options)?;
    for (name, paths) in [
        ("home", options.home.as_slice()),
        ("fuse", options.fuse.as_slice()),
        ("prefixes", &options.prefixes),
    ] {
        if let Some(path) = paths.iter().find(|path| !path.is_absolute()) {
            return Err(wrong(name, format!("`{}` is not an absolute path", path.display())));
        }
    }
    for (name, dirs) in
        [("image-file-root", &options.image_file_root), ("git-file-root", &options.git_file_root)]
    {
        if let Some(dir) = dirs.iter().find(|dir| !dir.is_dir()) {
            return Err(wrong(name, format!("there is no directory `{}`", dir.display())));
        }
    }
    if options.git_ssh_key.is_some() != options.git_known_hosts.is_some() {
        return Err(Stop::usage("--git-ssh-key and --git-known-hosts go together"));
    }
    if let Some(level) = options.verbosity.as_deref().filter(|level| !LEVELS.contains(level)) {
        return Err(wrong("verbosity", format!("`{level}` is none of {}", LEVELS.join(", "))));
    }
    options.steps.timeout()?;
    options.steps.limits()?;
    options.steps.oci(Path::new("/"))?;
    options.steps.docker().map(drop)
}

/// The original's names of levels.
const LEVELS: [&str; 7] = ["quiet", "app", "error", "warning", "warn", "info", "debug"];

/// How much steps are kept apart from the machine.
pub(crate) fn isolation(options: &Options) -> Result<Isolation, Stop> {
    let Some(name) = options.isolation.as_deref() else { return Ok(Isolation::default()) };
    let wrong = || Stop::usage(format!("--isolation: `{name}` is neither full nor users"));
    Isolation::named(name).ok_or_else(wrong)
}

/// How trees get into an rsync store.
pub(crate) fn mode(options: &Options) -> Result<Mode, Stop> {
    let mode = options.rsync_mode.as_deref().unwrap_or("auto");
    mode.parse().map_err(|error| Stop::usage(format!("--rsync-mode: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Options)) -> String {
        let mut options = Options::default();
        change(&mut options);
        check(&options).map_or_else(|stop| stop.text, |()| String::new())
    }

    #[test]
    fn values_that_no_worker_could_begin_with_are_named() {
        assert_eq!(refused(|_| {}), "");
        for (said, expected) in [
            (refused(|o| o.slots = Some(0)), "--slots: `0` is not a number from 1 to 256"),
            (refused(|o| o.slots = Some(100_000)), "--slots: `100000` is not"),
            (refused(|o| o.uid = Some(0)), "--uid: a build user must not be root (0)"),
            (refused(|o| o.uid = Some(u32::MAX)), "--uid: there are no 1 users from"),
            (refused(|o| o.user_prefix = Some("root/x".into())), "--user-prefix: `root/x` cannot"),
            (refused(|o| o.user_prefix = Some(String::new())), "--user-prefix: `` cannot begin"),
            (refused(|o| o.isolation = Some("strong".into())), "--isolation: `strong` is neither"),
            (refused(|o| o.rsync_mode = Some("x".into())), "--rsync-mode: "),
            (refused(|o| o.obuilder_store = Some("btrfs:/x".into())), "--obuilder-store: "),
            (refused(|o| o.home = Some("rel".into())), "--home: `rel` is not an absolute path"),
            (refused(|o| o.prefixes = vec!["rel".into()]), "--prefixes: `rel` is not absolute"),
            (
                refused(|o| o.image_file_root = vec!["/no/dir".into()]),
                "--image-file-root: there is",
            ),
            (refused(|o| o.git_ssh_key = Some("/k".into())), "--git-ssh-key and"),
            (refused(|o| o.verbosity = Some("loud".into())), "--verbosity: `loud` is none of"),
        ] {
            let expected = expected.replace("is not absolute", "is not an absolute path");
            assert!(said.starts_with(&expected), "{said:?} is not {expected:?}");
        }
    }
}
