//! What builds take from the machine besides.

use std::path::PathBuf;

use super::check::Check;
use super::subject::Subject;
use super::tool::ask;

/// The checks on the shell and on base images.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    vec![shell(), images(subject)]
}

fn shell() -> Check {
    match ask("/usr/bin/env", &["bash", "-c", "exit 0"]) {
        Ok(said) if said.success => Check::ok("shell", "`/usr/bin/env bash` works"),
        _ => Check::broken(
            "shell",
            "`/usr/bin/env bash`, the shell of specs that name no other, does not work",
            "install bash, or give specs a (shell …)",
        ),
    }
}

fn images(subject: &Subject<'_>) -> Check {
    let dirs = subject.settings.images();
    let (there, missing): (Vec<PathBuf>, Vec<PathBuf>) =
        dirs.into_iter().partition(|dir| dir.is_dir());
    let names = |dirs: &[PathBuf]| {
        dirs.iter().map(|dir| format!("`{}`", dir.display())).collect::<Vec<_>>().join(", ")
    };
    Check::ok(
        "base images",
        match there.is_empty() {
            false => format!("`scratch`, and the directories in {}", names(&there)),
            true => format!("`scratch` only; {} is not there", names(&missing)),
        },
    )
}
