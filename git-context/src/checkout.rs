//! One repository's commits, checked out and merged into a working tree.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::commit::{CommitId, ObjectFormat};
use crate::error::{Error, Result};
use crate::git::Command;
use crate::job::Job;
use crate::mirror::{Generation, Mirror, Pin, Wanted, write_repository};
use crate::modules::Modules;
use crate::repository::Repository;
use crate::settings::quoted_value;
use crate::tree::{self, Allowance, Tree};

/// What to check out, and where.
#[derive(Debug)]
pub(crate) struct Checkout<'a> {
    pub(crate) repository: &'a Repository,
    /// The first one is checked out, the others are merged into it.
    pub(crate) commits: &'a [CommitId],
    /// Where Git keeps what is of this working tree alone. Objects are borrowed from the mirror.
    pub(crate) git_dir: PathBuf,
    /// An empty directory.
    pub(crate) work_tree: PathBuf,
    /// From `git_dir` to `work_tree`, for those who find the one by the other.
    pub(crate) way: Option<String>,
    /// Whether `git_dir` is to hold everything by itself, with all branches.
    pub(crate) whole: bool,
}

/// What a working tree holds.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) tree: Tree,
    pub(crate) modules: Modules,
}

/// Why a checkout failed.
enum Trouble {
    /// Maybe as the mirror is broken.
    Mirror(Error),
    Other(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Trouble {
    fn of_mirror(error: Error) -> Self {
        if error.is_command() { Self::Mirror(error) } else { Self::Other(error) }
    }
}

impl Checkout<'_> {
    /// Fetches what is missing and fills the working tree; returns what it holds. A mirror that turns out to be broken is made anew, once.
    pub(crate) fn run(
        &self,
        job: &Job<'_>,
        mirrors: &Path,
        allowance: &mut Allowance,
    ) -> Result<Filled> {
        let mut broken: Option<Generation> = None;
        loop {
            let mirror = Mirror::new(mirrors, self.repository, self.format());
            let wanted = Wanted { commits: self.commits, branches: self.whole };
            let pin = mirror.ready(job, wanted, broken)?;
            if pin.cached && self.way.is_none() {
                job.say("All commits already cached\n")?;
            }
            let mut rest = allowance.clone();
            match self.fill(job, &pin, &mut rest) {
                Ok(filled) => {
                    *allowance = rest;
                    return Ok(filled);
                }
                Err(Trouble::Mirror(error)) if broken.is_none() && !pin.fresh => {
                    tracing::warn!("the mirror of {} may be broken: {error}", self.repository);
                    broken = pin.generation();
                    self.clear()?;
                }
                Err(Trouble::Mirror(error) | Trouble::Other(error)) => return Err(error),
            }
        }
    }

    fn format(&self) -> ObjectFormat {
        self.commits.first().map_or(ObjectFormat::Sha1, CommitId::format)
    }

    fn fill(
        &self,
        job: &Job<'_>,
        pin: &Pin,
        allowance: &mut Allowance,
    ) -> std::result::Result<Filled, Trouble> {
        let [first, others @ ..] = self.commits else {
            return Ok(Filled { tree: Tree::default(), modules: Modules::default() });
        };
        self.make_repository(first)?;
        let before = allowance.clone();
        let mut tree = self.look(job, pin, first.as_str(), allowance)?;
        self.reset(job, pin, first)?;
        for other in others {
            // Before, as it may be endless; after, as many could together be larger than each alone.
            self.look(job, pin, other.as_str(), &mut before.clone())?;
            self.merge(job, pin, other)?;
            *allowance = before.clone();
            tree = self.look(job, pin, "HEAD", allowance)?;
        }
        let modules = self.read_modules(job, pin, &tree)?;
        if self.whole {
            self.make_whole(job, pin)?;
        }
        Ok(Filled { tree, modules })
    }

    fn look(
        &self,
        job: &Job<'_>,
        pin: &Pin,
        commit: &str,
        allowance: &mut Allowance,
    ) -> std::result::Result<Tree, Trouble> {
        let git = |label, args| self.command(pin, label, args);
        tree::look(job, git, commit, allowance).map_err(Trouble::of_mirror)
    }

    fn reset(
        &self,
        job: &Job<'_>,
        pin: &Pin,
        commit: &CommitId,
    ) -> std::result::Result<(), Trouble> {
        let mut reset = self.command(pin, "git-reset", ["reset", "--hard", commit.as_str()]);
        if self.way.is_some() {
            // Submodules have a line of their own in the log.
            reset = reset.arg("-q");
        }
        job.logged(&reset).map_err(Trouble::of_mirror)
    }

    fn read_modules(&self, job: &Job<'_>, pin: &Pin, tree: &Tree) -> Result<Modules> {
        if !tree.has_modules || tree.gitlinks.is_empty() {
            return Ok(Modules::default());
        }
        let args = ["config", "--blob", "HEAD:.gitmodules", "--no-includes", "-z", "--list"];
        Modules::read(job, &self.command(pin, "git-submodule-update", args))
    }

    fn merge(
        &self,
        job: &Job<'_>,
        pin: &Pin,
        commit: &CommitId,
    ) -> std::result::Result<(), Trouble> {
        let merge = self.command(pin, "git-merge", ["merge", commit.as_str()]);
        let merged = job.logged(&merge);
        let Err(error) = merged else { return Ok(()) };
        let Error::Command { label, ending, .. } = error else { return Err(error.into()) };
        let failed = |hint: &str| Error::Command { label, ending, hint: Some(hint.into()) };
        if ending == crate::Ending::Exit(1) {
            let hint = "the commits do not merge: merge or rebase one onto the other by hand";
            return Err(failed(hint).into());
        }
        let args = ["merge-base", "HEAD", commit.as_str()];
        let base = job.quiet(&self.command(pin, "git-merge-base", args))?;
        if base.code() == Some(1) {
            return Err(failed("the commits have no history in common").into());
        }
        Err(Trouble::Mirror(failed("what Git said stands above")))
    }

    /// A command that sees the job's own repository with the mirror's objects.
    fn command<A: Into<OsString>>(
        &self,
        pin: &Pin,
        label: &'static str,
        args: impl IntoIterator<Item = A>,
    ) -> Command {
        let command = Command::new(label, &self.git_dir, args).work_tree(&self.work_tree);
        command.borrow_objects(&pin.git_dir)
    }

    /// Writes the job's own repository. A submodule's HEAD is its commit; the outermost one is on a branch, as in the original.
    fn make_repository(&self, first: &CommitId) -> Result<()> {
        let (version, extension) = match self.format() {
            ObjectFormat::Sha1 => (0, ""),
            ObjectFormat::Sha256 => (1, "[extensions]\n\tobjectFormat = sha256\n"),
        };
        // Where Git is not left, the way is never right.
        let way = self.way.as_ref().filter(|_| self.whole);
        let way =
            way.map(|way| format!("\tworktree = {}\n", quoted_value(way))).unwrap_or_default();
        let url = quoted_value(&self.repository.url());
        let config = format!(
            "[core]\n\trepositoryFormatVersion = {version}\n\tfilemode = true\n\tbare = false\n{way}\
             {extension}[remote \"origin\"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
        );
        let head = match self.way {
            None => "ref: refs/heads/master\n".into(),
            Some(_) => format!("{first}\n"),
        };
        write_repository(&self.git_dir, &config, &head)
    }

    /// Gives the job's own repository the branches and all objects, so that it needs the mirror no more.
    fn make_whole(&self, job: &Job<'_>, pin: &Pin) -> Result<()> {
        let args = ["for-each-ref", "--format=%(objectname) %(refname)"];
        let refs = ["refs/remotes/origin", "refs/tags"];
        let list = Command::new("git-for-each-ref", &pin.git_dir, args.into_iter().chain(refs));
        let (listed, packed) = job.printed(&list)?;
        listed.told(job)?;
        let path = self.git_dir.join("packed-refs");
        fs::write(&path, packed).map_err(Error::io(format!("write `{}`", path.display())))?;
        let repack = self.command(pin, "git-repack", ["repack", "-a", "-d", "-q"]);
        job.quiet(&repack)?.told(job)
    }

    /// Empties both directories.
    fn clear(&self) -> Result<()> {
        for dir in [&self.git_dir, &self.work_tree] {
            tree_copy::remove_tree(dir).map_err(|error| Error::Failed {
                action: format!("clear `{}`", dir.display()),
                source: error.into(),
            })?;
        }
        make_dir(&self.work_tree)
    }
}

/// Makes a directory that a build user can read.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(Error::io(format!("make the directory `{}`", path.display())))
}
