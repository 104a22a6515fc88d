//! The submodules of a working tree, and theirs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use obuilder_core::bstr::{BString, ByteSlice};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::checkout::{Checkout, Filled};
use crate::commit::CommitId;
use crate::config::Config;
use crate::error::{Ending, Error, Result};
use crate::job::Job;
use crate::modules::{Module, Modules};
use crate::repository::Repository;
use crate::shown::{shown, shown_bytes};
use crate::tree::Allowance;

/// What all submodules of a job have in common.
pub(crate) struct Submodules<'a> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) config: &'a Config,
    pub(crate) mirrors: &'a Path,
    /// The outermost working tree.
    pub(crate) top: &'a Path,
    /// The repository around it, which holds those of the submodules.
    pub(crate) git_dir: &'a Path,
    /// Whether these are to be whole.
    pub(crate) whole: bool,
    /// How many more there may be.
    pub(crate) left: usize,
}

/// A working tree whose submodules are to be filled.
#[derive(Default)]
struct Place {
    /// From the outermost working tree; empty for that one.
    path: BString,
    /// Its repository, from that of the outermost one; empty for that one.
    inner: PathBuf,
    depth: usize,
}

/// A submodule to be filled.
struct Found<'a> {
    path: BString,
    commit: &'a CommitId,
    module: &'a Module,
    repository: Repository,
}

impl Submodules<'_> {
    /// Fills the submodules of the outermost working tree, and those in them.
    pub(crate) fn fill(
        &mut self,
        repository: &Repository,
        filled: &Filled,
        allowance: &mut Allowance,
    ) -> Result<()> {
        self.fill_below(&Place::default(), repository, filled, allowance)
    }

    fn fill_below(
        &mut self,
        place: &Place,
        repository: &Repository,
        filled: &Filled,
        allowance: &mut Allowance,
    ) -> Result<()> {
        self.count(place, filled.tree.gitlinks.len())?;
        let all = self.find(place, repository, filled)?;
        Modules::check_names(all.iter().map(|found| found.module))?;
        for found in &all {
            let (name, path) = (shown(&found.module.name), shown_bytes(&found.path));
            let repository = &found.repository;
            self.job.say(&format!(
                "Submodule '{name}' ({repository}) registered for path '{path}'\n"
            ))?;
        }
        all.iter().try_for_each(|found| self.fill_one(place, found, allowance))
    }

    /// Refuses too many submodules.
    fn count(&mut self, place: &Place, more: usize) -> Result<()> {
        let limits = &self.job.git.limits;
        let too_many = |what: &str, limit: usize| Error::TooLarge {
            what: what.into(),
            limit: limit as u64,
            unit: "submodules",
        };
        if more > 0 && place.depth >= limits.depth {
            return Err(too_many("the chain of submodules in submodules", limits.depth));
        }
        let left = self.left.checked_sub(more);
        self.left = left.ok_or_else(|| too_many("the job", limits.submodules))?;
        Ok(())
    }

    /// Finds out where each submodule comes from.
    fn find<'f>(
        &self,
        place: &Place,
        repository: &Repository,
        filled: &'f Filled,
    ) -> Result<Vec<Found<'f>>> {
        let mut all = Vec::new();
        for (path, commit) in &filled.tree.gitlinks {
            let full = place.below(path);
            let shown = shown_bytes(&full);
            let Some(module) = filled.modules.at(path.as_bstr()) else {
                let said =
                    format!("fatal: No url found for submodule path '{shown}' in .gitmodules\n");
                self.job.say(&said)?;
                let hint = Some(format!("give `{shown}` a path and a URL in `.gitmodules`"));
                return Err(failed(hint));
            };
            let met = format!(" of the submodule `{shown}`");
            let repository =
                repository.join(&module.url).map_err(|error| with_place(error, &met))?;
            self.config.check(&repository, &met)?;
            all.push(Found { path: full, commit, module, repository });
        }
        Ok(all)
    }

    fn fill_one(
        &mut self,
        place: &Place,
        found: &Found<'_>,
        allowance: &mut Allowance,
    ) -> Result<()> {
        let path = shown_bytes(&found.path);
        if found.module.skipped {
            return self.job.say(&format!("Skipping submodule '{path}'\n"));
        }
        let inner = place.inner.join("modules").join(&found.module.name);
        let work_tree = self.top.join(OsStr::from_bytes(&found.path));
        check_empty(self.top, &found.path)?;
        let checkout = Checkout {
            repository: &found.repository,
            commits: std::slice::from_ref(found.commit),
            git_dir: self.git_dir.join(&inner),
            work_tree: work_tree.clone(),
            way: Some(way_to_tree(&inner, &found.path)),
            whole: self.whole,
        };
        let filled = checkout.run(self.job, self.mirrors, allowance)?;
        let file = work_tree.join(".git");
        let text = way_to_repository(&inner, &found.path);
        fs::write(&file, text).map_err(Error::io(format!("write `{}`", file.display())))?;
        self.job.say(&format!("Submodule path '{path}': checked out '{}'\n", found.commit))?;
        let below = Place { path: found.path.clone(), inner, depth: place.depth + 1 };
        self.fill_below(&below, &found.repository, &filled, allowance)
    }
}

impl Place {
    fn below(&self, path: &BString) -> BString {
        if self.path.is_empty() {
            path.clone()
        } else {
            [&self.path[..], &path[..]].join(&b'/').into()
        }
    }
}

/// What the original's `git submodule update` fails with.
fn failed(hint: Option<String>) -> Error {
    Error::Command { label: "git-submodule-update", ending: Ending::Exit(128), hint }
}

fn with_place(error: Error, place: &str) -> Error {
    match error {
        Error::Refused { what, why, hint } => {
            Error::Refused { what: format!("{what}{place}"), why, hint }
        }
        other => other,
    }
}

/// Checks that `path` leads to an empty directory below `top`, through no link.
fn check_empty(top: &Path, path: &BString) -> Result<()> {
    let refused = |why: &str| Error::Refused {
        what: format!("the submodule `{}`", shown_bytes(path)),
        why: why.into(),
        hint: "move the submodule in the commit, or what is in its way".into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reading = || format!("open `{}`", top.display());
    let mut at = openat(CWD, top, flags, Mode::empty()).map_err(Error::io(reading()))?;
    for part in path.split(|&byte| byte == b'/') {
        at = openat(&at, part, flags, Mode::empty())
            .map_err(|_| refused("its path leads through something that is no directory"))?;
    }
    let mut entries = rustix::fs::Dir::new(at).map_err(Error::io(reading()))?;
    let is_entry =
        |entry: &rustix::fs::DirEntry| !matches!(entry.file_name().to_bytes(), b"." | b"..");
    match entries.find(|entry| entry.as_ref().map_or(true, is_entry)) {
        None => Ok(()),
        Some(_) => Err(refused("something else lies in its directory")),
    }
}

/// The `.git` file of a submodule: Git's own text, which is part of what a build copies.
fn way_to_repository(inner: &Path, path: &BString) -> Vec<u8> {
    let up = "../".repeat(path.split(|&byte| byte == b'/').count());
    let mut text = format!("gitdir: {up}.git/").into_bytes();
    text.extend_from_slice(inner.as_os_str().as_bytes());
    text.push(b'\n');
    text
}

/// The way back, for `core.worktree`; paths that are no text have none.
fn way_to_tree(inner: &Path, path: &BString) -> String {
    let up = "../".repeat(inner.components().count() + 1);
    format!("{up}{}", path.to_str_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_are_those_that_git_writes() {
        let (inner, path) = (Path::new("modules/a/modules/b"), BString::from("lib/a/b"));
        assert_eq!(way_to_repository(inner, &path), b"gitdir: ../../../.git/modules/a/modules/b\n");
        assert_eq!(way_to_tree(inner, &path), "../../../../../lib/a/b");
    }

    #[test]
    fn a_submodule_lies_in_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        fs::create_dir_all(dir.path().join("a/full/x")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let check = |path: &str| check_empty(dir.path(), &path.into());
        assert!(check("a/empty").is_ok());
        for path in ["a/full", "link/empty", "link", "none"] {
            assert!(check(path).unwrap_err().to_string().contains("is refused"), "{path}");
        }
    }
}
