//! A state directory, and repositories to get sources from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use git_context::{Config, Context, Error, GitContexts, Request};
use obuilder_core::Cancel;

/// A temporary directory with `state` and `repos` in it.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("state"));
        fs::create_dir(dir.path().join("repos")).unwrap();
        config.file_roots = vec![dir.path().join("repos")];
        Self { dir, config }
    }

    pub(crate) fn contexts(&self) -> GitContexts {
        GitContexts::open(self.config.clone()).unwrap()
    }

    pub(crate) fn repos(&self) -> PathBuf {
        self.dir.path().join("repos")
    }

    /// A new repository with one commit of `file`.
    pub(crate) fn repo(&self, name: &str) -> Repo {
        let repo = self.empty_repo(name, "sha1");
        repo.commit("file", "one\n");
        repo
    }

    pub(crate) fn empty_repo(&self, name: &str, format: &str) -> Repo {
        let path = self.repos().join(name);
        fs::create_dir_all(&path).unwrap();
        let repo = Repo { path };
        repo.git(&["init", "-q", "-b", "main", "--object-format", format]);
        repo
    }

    /// The only mirror.
    pub(crate) fn mirror(&self) -> PathBuf {
        let mirrors = self.mirrors();
        assert_eq!(mirrors.len(), 1, "{mirrors:?}");
        mirrors[0].join("repo")
    }

    pub(crate) fn mirrors(&self) -> Vec<PathBuf> {
        listing(&self.config.state_dir.join("git/mirrors"))
    }

    /// What lies in the directory of contexts.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        listing(&self.config.state_dir.join("git/contexts"))
    }
}

pub(crate) fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// A repository that tests write.
pub(crate) struct Repo {
    pub(crate) path: PathBuf,
}

impl Repo {
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// Runs Git in it, without anybody's configuration.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_with(args, b"")
    }

    pub(crate) fn git_with(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = git();
        command.current_dir(&self.path).args(args);
        let stdin = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut &stdin, input).unwrap();
        io::Seek::rewind(&mut &stdin).unwrap();
        let output = command.stdin(stdin).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().into()
    }

    /// Writes a file and commits it.
    pub(crate) fn commit(&self, file: &str, text: &str) -> String {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", &format!("write {file}")]);
        self.head()
    }

    pub(crate) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// A commit of a tree made of `lines` for `git mktree`, which checks nothing.
    pub(crate) fn commit_tree(&self, lines: &str) -> String {
        let tree = self.git_with(&["mktree", "--missing"], lines.as_bytes());
        let commit = self.git(&["commit-tree", "-m", "made", &tree]);
        self.git(&["update-ref", "refs/heads/made", &commit]);
        commit
    }

    pub(crate) fn blob(&self, text: &str) -> String {
        self.git_with(&["hash-object", "-w", "--stdin"], text.as_bytes())
    }

    /// Adds `other` as a submodule at `path`, with this URL in `.gitmodules`.
    pub(crate) fn add_submodule(&self, path: &str, url: &str, commit: &str) -> String {
        let modules = self.path.join(".gitmodules");
        let mut text = fs::read_to_string(&modules).unwrap_or_default();
        text.push_str(&format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n"));
        fs::write(modules, text).unwrap();
        self.git(&["add", ".gitmodules"]);
        self.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
        self.git(&["commit", "-q", "-m", "add a submodule"]);
        self.head()
    }
}

pub(crate) fn git() -> Command {
    let mut command = Command::new("/usr/bin/git");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "test").env(format!("GIT_{who}_EMAIL"), "t@test");
    }
    command
}

/// A log in memory.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<u8>>);

impl Log {
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

pub(crate) fn prepare_with(
    contexts: &GitContexts,
    request: &Request,
    cancel: &Cancel,
) -> (Result<Context, Error>, String) {
    let log = Log::default();
    let prepared = contexts.prepare(request, &|bytes| log.write(bytes), cancel);
    (prepared, log.text())
}

/// Gets the sources of these commits; returns the log as well.
pub(crate) fn prepare(
    contexts: &GitContexts,
    url: &str,
    commits: &[&str],
) -> (Result<Context, Error>, String) {
    match Request::new(url, commits.iter().copied(), false) {
        Ok(request) => prepare_with(contexts, &request, &Cancel::new()),
        Err(error) => (Err(error), String::new()),
    }
}

/// The same, which must succeed.
pub(crate) fn get(contexts: &GitContexts, url: &str, commits: &[&str]) -> (Context, String) {
    let (prepared, log) = prepare(contexts, url, commits);
    (prepared.unwrap_or_else(|error| panic!("{}\n{log}", told(&error))), log)
}

/// The same, which must fail; the error with all its causes, and the log.
pub(crate) fn fail(contexts: &GitContexts, url: &str, commits: &[&str]) -> (String, String) {
    let (prepared, log) = prepare(contexts, url, commits);
    (told(&prepared.expect_err(&log)), log)
}

pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

pub(crate) fn read(context: &Context, file: &str) -> String {
    fs::read_to_string(context.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes of Git with this among their arguments.
pub(crate) fn git_with_argument(wanted: &str) -> Vec<rustix::process::Pid> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,stat=,args="]).output().unwrap().stdout;
    let lines = String::from_utf8_lossy(&output).into_owned();
    let found = lines.lines().filter(|line| line.contains(wanted) && line.contains("git"));
    let found = found.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let alive = found.filter(|fields| !fields[1].starts_with('Z'));
    alive.filter_map(|fields| rustix::process::Pid::from_raw(fields[0].parse().unwrap())).collect()
}
