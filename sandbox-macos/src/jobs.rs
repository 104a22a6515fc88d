//! Commands that a step may leave with the system, to be run when it has long ended.

use std::fs;
use std::path::Path;

use crate::platform;

/// Programs that take jobs, and the name of their lists of users.
const SERVICES: [(&str, &str); 2] = [("usr/bin/crontab", "cron"), ("usr/bin/at", "at")];

/// What is not prevented on the system below `root`, if there is anything. Reads a few small files.
pub(crate) fn weakness(root: &Path, users: &[&str]) -> Option<String> {
    let lists = root.join(platform::JOB_LISTS);
    let open = SERVICES.iter().filter(|(program, service)| {
        root.join(program).exists() && !users.iter().all(|user| is_denied(&lists, service, user))
    });
    let names: Vec<_> = open.map(|(_, service)| *service).collect();
    (!names.is_empty()).then(|| {
        let lists = Path::new("/").join(platform::JOB_LISTS);
        let deny: Vec<_> = names.iter().map(|name| lists.join(format!("{name}.deny"))).collect();
        let deny: Vec<_> = deny.iter().map(|path| format!("`{}`", path.display())).collect();
        let users: Vec<_> = users.iter().map(|user| format!("`{user}`")).collect();
        let (names, deny) = (names.join(" and "), deny.join(" and "));
        let users = users.join(", ");
        format!("jobs that a step leaves with {names} are not removed: add {users} to {deny}")
    })
}

/// Where there is a list of those who may, nobody else may; else all but those who are listed may not.
fn is_denied(lists: &Path, service: &str, user: &str) -> bool {
    let list = |kind: &str| fs::read_to_string(lists.join(format!("{service}.{kind}"))).ok();
    let named = |text: String| text.lines().any(|line| line.trim() == user);
    match list("allow") {
        Some(allowed) => !named(allowed),
        None => list("deny").is_some_and(named),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "only tests are here")]

    use super::*;

    #[test]
    fn only_what_is_there_and_open_to_the_user_is_told() {
        let root = tempfile::tempdir().unwrap();
        let (programs, lists) =
            (root.path().join("usr/bin"), root.path().join(platform::JOB_LISTS));
        for dir in [&programs, &lists] {
            fs::create_dir_all(dir).unwrap();
        }
        let told = || weakness(root.path(), &["mac705"]).unwrap_or_default();
        assert_eq!(told(), "");
        fs::write(programs.join("crontab"), "").unwrap();
        fs::write(programs.join("at"), "").unwrap();
        assert!(told().starts_with("jobs that a step leaves with cron and at are not removed"));
        fs::write(lists.join("at.deny"), "daemon\nmac705\n").unwrap();
        assert!(told().starts_with("jobs that a step leaves with cron are not removed"));
        fs::write(lists.join("cron.allow"), "root\n").unwrap();
        assert_eq!(told(), "");
        fs::write(lists.join("cron.allow"), "mac705\n").unwrap();
        assert!(told().contains("cron.deny`"), "{}", told());
    }
}
