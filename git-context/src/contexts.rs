//! Where jobs get their sources.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use obuilder_core::Cancel;

use crate::checkout::Checkout;
use crate::commit::CommitId;
use crate::config::Config;
use crate::context::{Context, sweep};
use crate::error::{Error, Result};
use crate::git::{Command, Git};
use crate::job::{Job, Log};
use crate::limits::Clock;
use crate::mirrors::{self, Pruned};
use crate::repository::Repository;
use crate::settings::{CONFIGURATION, Layout};
use crate::submodules::Submodules;
use crate::tree::{Allowance, MOST_LISTED};

/// How many commits one job may name.
const MOST_COMMITS: usize = 128;

/// What a job asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    sources: Option<(Repository, Vec<CommitId>)>,
    include_git: bool,
}

impl Request {
    /// The first of `commits` is checked out and the others are merged into it, in order. Without commits there is no repository,
    /// and the context is empty. `include_git` leaves `.git` in it, complete, with all branches.
    pub fn new<'c>(
        repository: &str,
        commits: impl IntoIterator<Item = &'c str>,
        include_git: bool,
    ) -> Result<Self> {
        let commits = commits.into_iter().map(CommitId::parse).collect::<Result<Vec<_>>>()?;
        let Some(first) = commits.first() else { return Ok(Self { sources: None, include_git }) };
        let refused = |why: &str, hint: &str| Error::Refused {
            what: "the list of commits".into(),
            why: why.into(),
            hint: hint.into(),
        };
        if commits.len() > MOST_COMMITS {
            return Err(refused("it is longer than 128 commits", "merge some of them before"));
        }
        if commits.iter().any(|commit| commit.format() != first.format()) {
            return Err(refused("it mixes SHA-1 and SHA-256", "name commits of one repository"));
        }
        Ok(Self { sources: Some((Repository::parse(repository)?, commits)), include_git })
    }

    /// The repository and its commits, if there are any.
    pub fn sources(&self) -> Option<(&Repository, &[CommitId])> {
        self.sources.as_ref().map(|(repository, commits)| (repository, &commits[..]))
    }
}

/// Gets the sources of jobs, and keeps what it fetched for the next ones.
///
/// *May run at once:* every method, from any thread and from several processes on one state directory.
/// A process that is killed leaves nothing that the next [`GitContexts::open`] or [`GitContexts::sweep`] does not remove.
#[derive(Debug)]
pub struct GitContexts {
    config: Config,
    layout: Layout,
    git: Git,
}

impl GitContexts {
    /// Makes the directories, writes Git's configuration, and sweeps away what killed processes left.
    pub fn open(config: Config) -> Result<Self> {
        let layout = Layout::new(&config.state_dir);
        check_state_dir(&config.state_dir)?;
        for (dir, mode) in [
            (layout.root().to_owned(), 0o711),
            (layout.home(), 0o700),
            (layout.mirrors(), 0o700),
            (layout.contexts(), 0o711),
        ] {
            fs::create_dir_all(&dir)
                .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)))
                .map_err(Error::io(format!("make the directory `{}`", dir.display())))?;
        }
        write_configuration(&layout)?;
        let git = Git::new(&config, &layout);
        let contexts = Self { config, layout, git };
        for path in contexts.sweep()? {
            tracing::info!("swept away {}", path.display());
        }
        Ok(contexts)
    }

    /// What Git says of its version.
    pub fn version(&self, cancel: &Cancel) -> Result<String> {
        let contexts = self.layout.contexts();
        let here = fs::File::open(&contexts)
            .map_err(Error::io(format!("open `{}`", contexts.display())))?;
        let job = self.job(&|_| Ok(()), cancel, std::os::fd::AsFd::as_fd(&here));
        let command = Command::new("git-version", Path::new("/"), ["version"]);
        let (finished, said) = job.printed(&command)?;
        finished.into_result()?;
        Ok(String::from_utf8_lossy(&said).trim().into())
    }

    /// Gets the sources that `request` asks for. What Git says, and what is waited for, goes to `log`.
    ///
    /// Cancelling ends everything that was started for it, and leaves the sources of other jobs alone.
    pub fn prepare(
        &self,
        request: &Request,
        log: &dyn Fn(&[u8]) -> io::Result<()>,
        cancel: &Cancel,
    ) -> Result<Context> {
        let context = Context::make(&self.layout.contexts())?;
        let (Some((repository, commits)), Some(lock)) = (&request.sources, context.lock()) else {
            return Ok(context);
        };
        self.config.check(repository, "")?;
        let job = self.job(log, cancel, lock);
        let got = self.get(&job, &context, (repository, commits), request.include_git);
        if job.fetched.get().is_some() {
            self.keep_bounded();
        }
        got.map(|()| context)
    }

    fn get(
        &self,
        job: &Job<'_>,
        context: &Context,
        (repository, commits): (&Repository, &[CommitId]),
        whole: bool,
    ) -> Result<()> {
        let limits = &self.git.limits;
        let (files, entries) = (limits.files, limits.entries);
        let mut allowance = Allowance { files, entries, listed: MOST_LISTED };
        let (git_dir, mirrors) = (context.git_dir(), self.layout.mirrors());
        let checkout = Checkout {
            repository,
            commits,
            git_dir: git_dir.clone(),
            work_tree: context.path().to_owned(),
            way: None,
            whole,
        };
        let filled = checkout.run(job, &mirrors, &mut allowance)?;
        let mut submodules = Submodules {
            job,
            config: &self.config,
            mirrors: &mirrors,
            top: context.path(),
            git_dir: &git_dir,
            whole,
            left: limits.submodules,
        };
        submodules.fill(repository, &filled, &mut allowance)?;
        context.finish(whole)
    }

    fn keep_bounded(&self) {
        match self.prune(self.config.limits.mirrors) {
            Ok(pruned) if pruned.removed.is_empty() => {}
            Ok(pruned) => {
                tracing::info!("removed {} mirrors to stay in bounds", pruned.removed.len())
            }
            Err(error) => tracing::warn!("failed to prune the mirrors: {error}"),
        }
    }

    fn job<'a>(&'a self, log: Log<'a>, cancel: &'a Cancel, directory: BorrowedFd<'a>) -> Job<'a> {
        let (clock, fetched) = (Clock::start(&self.git.limits), Cell::new(None));
        Job { git: &self.git, log, cancel, clock, fetched, directory }
    }

    /// Removes the contexts that killed processes left, and returns their directories. Those in use are not touched.
    pub fn sweep(&self) -> Result<Vec<PathBuf>> {
        sweep(&self.layout.contexts())
    }

    /// Removes the mirrors that were not used for the longest time until the rest holds at most `keep` bytes. Those in use stay.
    pub fn prune(&self, keep: u64) -> Result<Pruned> {
        mirrors::prune(&self.layout.mirrors(), keep)
    }

    /// Bytes that all mirrors hold.
    pub fn mirrors_size(&self) -> Result<u64> {
        mirrors::size(&self.layout.mirrors())
    }
}

/// Git's lists of directories have separators.
fn check_state_dir(dir: &Path) -> Result<()> {
    let bytes = dir.as_os_str().as_encoded_bytes();
    if dir.is_absolute() && !bytes.iter().any(|&byte| matches!(byte, b':' | b'"' | b'\n')) {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("the state directory `{}`", dir.display()),
        why: "it is not absolute, or it holds `:`, `\"` or a newline".into(),
        hint: "choose another directory".into(),
    })
}

/// Replaces the file, as other processes may be reading it.
fn write_configuration(layout: &Layout) -> Result<()> {
    let path = layout.configuration();
    let write = || {
        let file = tempfile::NamedTempFile::new_in(layout.root())?;
        fs::write(file.path(), CONFIGURATION)?;
        file.persist(&path)?;
        Ok::<_, io::Error>(())
    };
    write().map_err(Error::io(format!("write `{}`", path.display())))
}
