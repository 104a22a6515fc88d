//! One repository's mirror: a bare repository that keeps what was fetched, so that it is fetched once.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::commit::{CommitId, ObjectFormat};
use crate::error::{Error, Result};
use crate::fetch::{self, Source};
use crate::job::Job;
use crate::lock::{Lock, Mode};
use crate::presence::{self, Presence};
use crate::repository::Repository;

/// Where a repository is mirrored.
///
/// ```text
/// NAME-KEY/repo/        the mirror: objects, and references to what was fetched
///          new/, old/   one being made in its place, one being removed
///          fetch.lock   held by whoever changes any of these
///          use.lock     shared by those who read `repo`; held alone while it is replaced or removed
/// ```
///
/// Readers need not wait for a fetch, which only adds to the mirror. Nobody waits for `fetch.lock` with `use.lock` in hand.
#[derive(Debug)]
pub(crate) struct Mirror<'a> {
    dir: PathBuf,
    repository: &'a Repository,
    format: ObjectFormat,
}

/// What a mirror is to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) commits: &'a [CommitId],
    /// All branches as well.
    pub(crate) branches: bool,
}

/// A mirror that stays as long as this lives.
#[derive(Debug)]
pub(crate) struct Pin {
    _lock: Lock,
    pub(crate) git_dir: PathBuf,
    /// Whether nothing had to be fetched.
    pub(crate) cached: bool,
    /// Whether it was made from nothing just now.
    pub(crate) fresh: bool,
}

/// Tells a mirror from the one made in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64, u64);

impl Pin {
    pub(crate) fn generation(&self) -> Option<Generation> {
        Generation::of(&self.git_dir)
    }
}

impl Generation {
    fn of(git_dir: &Path) -> Option<Self> {
        fs::symlink_metadata(git_dir).ok().map(|found| Self(found.dev(), found.ino()))
    }
}

impl<'a> Mirror<'a> {
    pub(crate) fn new(mirrors: &Path, repository: &'a Repository, format: ObjectFormat) -> Self {
        Self { dir: mirrors.join(repository.key(format)), repository, format }
    }

    fn repo(&self) -> PathBuf {
        self.dir.join("repo")
    }

    /// The mirror with all that is wanted, which is fetched if need be. The mirror `broken` is not used but replaced.
    pub(crate) fn ready(
        &self,
        job: &Job<'_>,
        wanted: Wanted<'_>,
        broken: Option<Generation>,
    ) -> Result<Pin> {
        if broken.is_none() {
            let pin = self.pin(job, true, false)?;
            if self.presence(job, &pin.git_dir, wanted)? == Presence::All {
                return Ok(pin);
            }
        }
        let _fetching = job.clock.stopped(|| {
            Lock::acquire(&self.dir.join("fetch.lock"), Mode::Alone, job.cancel, || {
                job.say(&format!("Waiting for another job that fetches `{}`\n", self.repository))
            })
        })?;
        let (cached, fresh) = self.bring(job, wanted, broken)?;
        self.pin(job, cached, fresh)
    }

    fn pin(&self, job: &Job<'_>, cached: bool, fresh: bool) -> Result<Pin> {
        let lock = job.clock.stopped(|| {
            Lock::acquire(&self.dir.join("use.lock"), Mode::Shared, job.cancel, || {
                job.say(&format!("Waiting while the mirror of `{}` is replaced\n", self.repository))
            })
        })?;
        lock.touch();
        Ok(Pin { _lock: lock, git_dir: self.repo(), cached, fresh })
    }

    /// Fetches what is wanted; says whether it was there already, and whether the mirror is a new one.
    fn bring(
        &self,
        job: &Job<'_>,
        wanted: Wanted<'_>,
        broken: Option<Generation>,
    ) -> Result<(bool, bool)> {
        let repo = self.repo();
        self.remove_leftovers()?;
        let generation = Generation::of(&repo);
        let mut failed = None;
        if generation.is_some() && generation != broken {
            fetch::tidy(&repo)?;
            let presence = self.presence(job, &repo, wanted)?;
            if presence == Presence::All {
                return Ok((true, false));
            }
            if presence == Presence::NotAll {
                match self.fetch(job, &repo, wanted, true) {
                    Err(error) if error.is_command() => failed = Some(error),
                    done => return done.map(|()| (false, false)),
                }
            }
        }
        self.make_anew(job, wanted, failed, generation.is_some())?;
        Ok((false, true))
    }

    /// Fetches into a new mirror, which takes the place of the old one if that worked.
    ///
    /// When fetching into the old one `failed`, nobody knows yet whether it was the mirror's fault: if this fails too, it was not.
    fn make_anew(
        &self,
        job: &Job<'_>,
        wanted: Wanted<'_>,
        failed: Option<Error>,
        replaces: bool,
    ) -> Result<()> {
        let new = self.dir.join("new");
        make_repository(&new, self.format)?;
        let fetched = self.fetch(job, &new, wanted, failed.is_none());
        if let Err(error) = fetched {
            if matches!(error, Error::NoCommit { .. }) {
                // All the rest is there for the next job.
                self.replace(job)?;
                return Err(error);
            }
            self.remove_leftovers()?;
            return Err(failed.filter(|_| error.is_command()).unwrap_or(error));
        }
        if replaces {
            job.say(&format!("Made the mirror of `{}` anew\n", self.repository))?;
        }
        self.replace(job)
    }

    fn fetch(&self, job: &Job<'_>, git_dir: &Path, wanted: Wanted<'_>, aloud: bool) -> Result<()> {
        let source = Source { repository: self.repository, git_dir };
        let fetched = self.fetch_in_turn(job, &source, wanted, aloud);
        if fetched.is_err() {
            fetch::tidy(git_dir)?;
        }
        fetched
    }

    /// Asks for the commits alone, which is quick and which not every server grants; then for all branches and requests, as the
    /// original does. When the branches are wanted, in the other order.
    fn fetch_in_turn(
        &self,
        job: &Job<'_>,
        source: &Source<'_>,
        wanted: Wanted<'_>,
        aloud: bool,
    ) -> Result<()> {
        if !wanted.branches && self.fetch_commits(job, source, wanted)? {
            return Ok(());
        }
        let branches = source.branches(job)?;
        if aloud {
            branches.told(job)?;
        } else {
            branches.into_result()?;
        }
        let complete = self.presence(job, source.git_dir, wanted)? == Presence::All;
        if complete || wanted.branches && self.fetch_commits(job, source, wanted)? {
            return Ok(());
        }
        self.name_missing(job, source.git_dir, wanted)
    }

    /// Asks for the commits alone; says whether all is there then.
    fn fetch_commits(
        &self,
        job: &Job<'_>,
        source: &Source<'_>,
        wanted: Wanted<'_>,
    ) -> Result<bool> {
        let asked = source.commits(job, wanted.commits)?;
        if let Some(commit) = fetch::unknown(&asked, wanted.commits) {
            // Then it is on no branch either.
            return Err(self.no_commit(commit));
        }
        Ok(asked.success() && self.presence(job, source.git_dir, wanted)? == Presence::All)
    }

    /// The error that names the first commit that is not there.
    fn name_missing(&self, job: &Job<'_>, git_dir: &Path, wanted: Wanted<'_>) -> Result<()> {
        for commit in wanted.commits {
            let alone = Wanted { commits: std::slice::from_ref(commit), branches: false };
            if self.presence(job, git_dir, alone)? != Presence::All {
                return Err(self.no_commit(commit));
            }
        }
        Ok(())
    }

    fn no_commit(&self, commit: &CommitId) -> Error {
        let (commit, repository) = (commit.to_string(), self.repository.to_string());
        Error::NoCommit { commit, repository }
    }

    fn presence(&self, job: &Job<'_>, git_dir: &Path, wanted: Wanted<'_>) -> Result<Presence> {
        presence::find(job, git_dir, self.repository, wanted)
    }

    /// Puts the new mirror in the place of the old one, when nobody reads that any more.
    fn replace(&self, job: &Job<'_>) -> Result<()> {
        let _alone = job.clock.stopped(|| {
            Lock::acquire(&self.dir.join("use.lock"), Mode::Alone, job.cancel, || {
                job.say(&format!(
                    "Waiting for jobs that read the mirror of `{}`\n",
                    self.repository
                ))
            })
        })?;
        let rename = |from: &str, to: &str| match fs::rename(self.dir.join(from), self.dir.join(to))
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from == "repo" => Ok(()),
            done => done.map_err(Error::io(format!("replace the mirror `{}`", self.dir.display()))),
        };
        rename("repo", "old")?;
        rename("new", "repo")?;
        self.remove_leftovers()
    }

    fn remove_leftovers(&self) -> Result<()> {
        remove_beside(&self.dir)
    }
}

/// Removes what is not the mirror itself from its directory.
pub(crate) fn remove_beside(dir: &Path) -> Result<()> {
    for name in ["new", "old"] {
        let path = dir.join(name);
        tree_copy::remove_tree(&path).map_err(|error| Error::Failed {
            action: format!("remove `{}`", path.display()),
            source: error.into(),
        })?;
    }
    Ok(())
}

/// Makes an empty repository without asking Git, which has templates to copy.
pub(crate) fn make_repository(git_dir: &Path, format: ObjectFormat) -> Result<()> {
    let (version, extension) = match format {
        ObjectFormat::Sha1 => (0, ""),
        ObjectFormat::Sha256 => (1, "[extensions]\n\tobjectFormat = sha256\n"),
    };
    let config =
        format!("[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extension}");
    write_repository(git_dir, &config, "ref: refs/heads/master\n")
}

/// The files that make a directory a repository.
pub(crate) fn write_repository(git_dir: &Path, config: &str, head: &str) -> Result<()> {
    let make =
        |name: &str| fs::DirBuilder::new().recursive(true).mode(0o755).create(git_dir.join(name));
    ["objects/pack", "refs/heads"]
        .into_iter()
        .try_for_each(make)
        .and_then(|()| fs::write(git_dir.join("config"), config))
        .and_then(|()| fs::write(git_dir.join("HEAD"), head))
        .map_err(Error::io(format!("make the repository `{}`", git_dir.display())))
}
