//! Whether a mirror holds what is wanted.

use std::path::Path;

use crate::error::{Error, Result};
use crate::fetch;
use crate::git::Command;
use crate::job::Job;
use crate::mirror::Wanted;
use crate::repository::Repository;

/// What a mirror holds of what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    All,
    NotAll,
    /// It has the objects and cannot read them, or it is no repository at all.
    Broken,
}

/// Looks for what is wanted in the mirror of `repository` at `git_dir`; refuses objects that are no commits.
pub(crate) fn find(
    job: &Job<'_>,
    git_dir: &Path,
    repository: &Repository,
    wanted: Wanted<'_>,
) -> Result<Presence> {
    if !git_dir.is_dir() {
        let exists = git_dir.symlink_metadata().is_ok();
        return Ok(if exists { Presence::Broken } else { Presence::NotAll });
    }
    let commits = wanted.commits.iter().map(|commit| format!("{commit}^{{commit}}"));
    let args = ["rev-list", "--no-walk", "--quiet"].map(String::from).into_iter();
    let command = Command::new("git-rev-list", git_dir, args.chain(commits));
    if job.quiet(&command)?.success() {
        let branches = !wanted.branches || fetch::has_branches(job, git_dir)?;
        return Ok(if branches { Presence::All } else { Presence::NotAll });
    }
    // The names alone are read from the indexes of packs, whatever the objects are like.
    match ask(job, git_dir, wanted, "%(objectname)")? {
        Some(names) if names.contains(" missing") => Ok(Presence::NotAll),
        Some(_) => check_types(job, git_dir, repository, wanted).map(|()| Presence::Broken),
        None => Ok(Presence::Broken),
    }
}

/// Refuses what is readable and no commit.
fn check_types(
    job: &Job<'_>,
    git_dir: &Path,
    repository: &Repository,
    wanted: Wanted<'_>,
) -> Result<()> {
    let types = ask(job, git_dir, wanted, "%(objecttype)")?.unwrap_or_default();
    let mut types = wanted.commits.iter().zip(types.lines());
    match types.find(|(_, found)| matches!(*found, "tree" | "blob")) {
        None => Ok(()),
        Some((commit, found)) => Err(Error::Refused {
            what: format!("the commit `{commit}` in `{repository}`"),
            why: format!("it is a {found}"),
            hint: "name a commit, as `git rev-parse HEAD` prints it".into(),
        }),
    }
}

/// What a mirror says of the objects that are wanted, a line for each; `None` when it cannot say.
fn ask(job: &Job<'_>, git_dir: &Path, wanted: Wanted<'_>, what: &str) -> Result<Option<String>> {
    let names: String = wanted.commits.iter().map(|commit| format!("{commit}\n")).collect();
    let args = ["cat-file".into(), format!("--batch-check={what}")];
    let command = Command::new("git-cat-file", git_dir, args).input(names.into_bytes());
    let (finished, listed) = job.printed(&command)?;
    Ok(finished.success().then(|| String::from_utf8_lossy(&listed).into_owned()))
}
