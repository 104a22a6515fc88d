//! Fetching into a mirror.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::commit::CommitId;
use crate::error::{Error, Result};
use crate::git::Command;
use crate::job::{Finished, Job};
use crate::repository::Repository;

/// How often the size of a mirror is looked at, at most.
const LOOK: Duration = Duration::from_millis(100);

/// With more packs than this, small ones are put together.
const MANY_PACKS: usize = 50;

/// A file that stands in a mirror while something is fetched into it.
const MARKER: &str = "obuild-fetching";

/// A repository, and the mirror to fetch it into.
pub(crate) struct Source<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) git_dir: &'a Path,
}

impl Source<'_> {
    /// Fetches these commits with their history.
    pub(crate) fn commits(&self, job: &Job<'_>, commits: &[CommitId]) -> Result<Finished> {
        // What was fetched lately stays reachable, so that the next fetch brings only what is new. The names come from a bounded
        // set, and so do the references.
        let mut named = HashSet::new();
        let wanted = commits.iter().map(|commit| {
            let name = &commit.as_str()[..3];
            if named.insert(name) {
                format!("+{commit}:refs/recent/{name}")
            } else {
                commit.to_string()
            }
        });
        let finished = self.fetch(job, &["--no-tags"], wanted.collect())?;
        if finished.success() {
            self.put_packs_together(job)?;
        }
        Ok(finished)
    }

    /// Fetches all branches, pull requests (GitHub) and merge requests (GitLab).
    pub(crate) fn branches(&self, job: &Job<'_>) -> Result<Finished> {
        let wanted = [
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/pull/*:refs/remotes/pull/*",
            "+refs/merge-requests/*:refs/remotes/merge-requests/*",
        ];
        // A branch `a` that became `a/b` would be in the way.
        let finished = self.fetch(job, &["--prune"], wanted.map(String::from).to_vec())?;
        if finished.success() {
            let args = ["pack-refs", "--all"];
            job.quiet(&Command::new("git-pack-refs", self.git_dir, args))?.told(job)?;
            self.put_packs_together(job)?;
        }
        Ok(finished)
    }

    fn fetch(&self, job: &Job<'_>, options: &[&str], wanted: Vec<String>) -> Result<Finished> {
        let marker = self.git_dir.join(MARKER);
        let mark = || format!("write `{}`", marker.display());
        File::create(&marker).map_err(Error::io(mark()))?;
        let fixed = ["fetch", "-q", "--no-write-fetch-head", "--recurse-submodules=no"];
        let mut command = Command::new("git-fetch", self.git_dir, fixed);
        command.args.extend(options.iter().map(Into::into));
        command = command.arg("--").arg(self.repository.url());
        command.args.extend(wanted.into_iter().map(Into::into));
        command = command.header(self.repository.authorization());
        let brought = job.fetched.get().unwrap_or(0);
        job.fetched.set(Some(brought));
        let before = Size::of(self.git_dir);
        let mut watch = || self.look(job, brought, before);
        let finished = job.watched(&command, &mut watch)?;
        self.look(job, brought, before)?;
        // Git has ended by itself, and has cleaned up.
        if finished.code().is_some() {
            fs::remove_file(&marker).map_err(Error::io(mark()))?;
        }
        Ok(finished)
    }

    /// Refuses a mirror that grows too large, counting what the job's other fetches have brought, and a volume that gets full; says
    /// when to look again.
    fn look(&self, job: &Job<'_>, brought: u64, before: Size) -> Result<Duration> {
        let begun = Instant::now();
        let limits = &job.git.limits;
        let now = Size::of(self.git_dir);
        let what = || format!("what is fetched from `{}`", self.repository);
        let fetched = brought + now.bytes.saturating_sub(before.bytes);
        job.fetched.set(Some(fetched));
        if fetched > limits.fetch {
            return Err(Error::TooLarge { what: what(), limit: limits.fetch, unit: "bytes" });
        }
        let volume = rustix::fs::statvfs(self.git_dir)
            .map_err(Error::io(format!("measure the volume of `{}`", self.git_dir.display())))?;
        if volume.f_bavail.saturating_mul(volume.f_frsize) < limits.free {
            return Err(Error::VolumeFull { what: what(), least: limits.free });
        }
        if now.files.saturating_sub(before.files) > limits.entries {
            return Err(Error::TooLarge { what: what(), limit: limits.entries, unit: "files" });
        }
        Ok(LOOK.max(begun.elapsed() * 20))
    }

    /// Each fetch leaves a pack, and every look-up asks each pack.
    fn put_packs_together(&self, job: &Job<'_>) -> Result<()> {
        let packs = entries(&self.git_dir.join("objects/pack"));
        let packs = packs.filter(|entry| has_end(entry, ".pack")).count();
        if packs > MANY_PACKS {
            let args = ["repack", "-d", "-q", "--geometric=2"];
            let command = Command::new("git-repack", self.git_dir, args);
            let finished = job.quiet(&command)?;
            if !finished.success() {
                let errors = String::from_utf8_lossy(finished.errors());
                tracing::warn!("failed to repack `{}`: {errors}", self.git_dir.display());
            }
        }
        Ok(())
    }
}

/// The commit that a server, in the words that all of them take from Git, does not have or does not show.
pub(crate) fn unknown<'a>(asked: &Finished, commits: &'a [CommitId]) -> Option<&'a CommitId> {
    let said = String::from_utf8_lossy(asked.errors());
    commits.iter().find(|commit| said.contains(&format!("not our ref {commit}")))
}

/// Whether the mirror's branches were ever fetched.
pub(crate) fn has_branches(job: &Job<'_>, git_dir: &Path) -> Result<bool> {
    let args = ["for-each-ref", "--count=1", "refs/remotes/origin"];
    let command = Command::new("git-for-each-ref", git_dir, args);
    let (finished, listed) = job.printed(&command)?;
    finished.told(job)?;
    Ok(!listed.is_empty())
}

/// Removes what a Git that was killed in the middle of a fetch left in the mirror: its locks and half-made files.
pub(crate) fn tidy(git_dir: &Path) -> Result<()> {
    let marker = git_dir.join(MARKER);
    if !marker.exists() {
        return Ok(());
    }
    let failed = || format!("clear `{}` of what a killed fetch left", git_dir.display());
    tidy_directory(git_dir, &mut |name| name.ends_with(b".lock") || name == b"packed-refs.new")
        .and_then(|()| tidy_below(&git_dir.join("refs"), &mut |name| name.ends_with(b".lock")))
        .and_then(|()| tidy_below(&git_dir.join("objects"), &mut is_half_made))
        .map_err(Error::io(failed()))?;
    fs::remove_file(&marker).map_err(Error::io(failed()))
}

/// Names in a directory of objects, which, unlike those of references, Git alone chooses.
fn is_half_made(name: &[u8]) -> bool {
    let begins = [&b"tmp_"[..], b"incoming-"].iter().any(|start| name.starts_with(start));
    begins || [&b".lock"[..], b".temp", b".keep"].iter().any(|end| name.ends_with(end))
}

fn tidy_below(dir: &Path, left: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
    tidy_directory(dir, left)?;
    let dirs = entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.into_iter().try_for_each(|entry| tidy_below(&entry.path(), left))
}

fn tidy_directory(dir: &Path, left: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
    for entry in entries(dir) {
        let name = entry.file_name();
        if left(name.as_encoded_bytes()) {
            tree_copy::remove_tree(&entry.path()).map_err(|error| error.source)?;
        }
    }
    Ok(())
}

/// How much a directory holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Size {
    /// Measures `dir`, which may change meanwhile.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut size = Self::default();
        for entry in entries(dir) {
            let Ok(found) = entry.metadata() else { continue };
            let below = if found.is_dir() { Self::of(&entry.path()) } else { Self::default() };
            size.files += 1 + below.files;
            size.bytes += below.bytes + if found.is_file() { found.len() } else { 0 };
        }
        size
    }
}

/// What is in `dir`; nothing when it cannot be read.
fn entries(dir: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(dir).into_iter().flatten().filter_map(io::Result::ok)
}

fn has_end(entry: &DirEntry, end: &str) -> bool {
    entry.file_name().as_encoded_bytes().ends_with(end.as_bytes())
}
