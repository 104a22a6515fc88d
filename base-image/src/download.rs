//! Brings sources to this machine, and checks them.
//!
//! What was brought is kept by its digest, so that it is brought once:
//!
//! ```text
//! DIR/sha256/HEX     a file
//! DIR/commit/HEX/    a bare git repository with one commit
//! ```

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::scratch::Scratch;
use crate::sources::Source;

/// What was brought before, and where more is brought to.
#[derive(Debug, Clone)]
pub(crate) struct Downloads {
    dir: PathBuf,
}

/// What a source has turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Brought {
    /// A file, which is not to be written to.
    File(PathBuf),
    /// A directory, which is not ours.
    Directory(PathBuf),
    /// A bare git repository.
    History(PathBuf),
}

impl Downloads {
    /// Keeps files in `dir`.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Brings `what` from `source`, unless it is here; `tell` is told what is brought.
    pub(crate) fn bring(
        &self,
        what: &str,
        source: &Source,
        tell: &dyn Fn(&str),
    ) -> Result<Brought> {
        if let Some(directory) = source.directory() {
            if let Source::Url { url, sha256: Some(_) } = source {
                return Err(Error::Request(format!(
                    "`{url}`, the source of {what}, is a directory: it has no sha256, as steps are known by what they copy"
                )));
            }
            return Ok(Brought::Directory(directory.to_owned()));
        }
        match source {
            Source::Url { url, sha256 } => self.file(what, url, sha256.as_deref(), tell),
            Source::Git { git, commit } => self.history(what, git, commit, tell),
        }
    }

    fn file(
        &self,
        what: &str,
        url: &str,
        sha256: Option<&str>,
        tell: &dyn Fn(&str),
    ) -> Result<Brought> {
        let kept = |digest: &str| self.dir.join("sha256").join(digest);
        if let Some(digest) = sha256
            && kept(digest).is_file()
            && digest_of(&kept(digest))? == digest
        {
            return Ok(Brought::File(kept(digest)));
        }
        tell(&format!("bringing {what} from {url}"));
        let staging = self.staging()?;
        let file = staging.path().join("file");
        fetch(what, url, &file)?;
        let found = digest_of(&file)?;
        let (what, url) = (what.to_owned(), url.to_owned());
        match sha256 {
            None => return Err(Error::NoDigest { what, url, found }),
            Some(expected) if expected != found => {
                return Err(Error::Digest { what, url, found, expected: expected.to_owned() });
            }
            Some(_) => {}
        }
        let target = kept(&found);
        make_dirs(target.parent().unwrap_or(&self.dir))?;
        // Programs are among them, and a copy of a file that can be run can be run.
        fs::set_permissions(&file, Permissions::from_mode(0o755))
            .map_err(Error::io("make executable", &file))?;
        fs::rename(&file, &target).map_err(Error::io("keep", &target))?;
        Ok(Brought::File(target))
    }

    fn history(&self, what: &str, url: &str, commit: &str, tell: &dyn Fn(&str)) -> Result<Brought> {
        let target = self.dir.join("commit").join(commit);
        if target.is_dir() {
            return Ok(Brought::History(target));
        }
        tell(&format!("bringing {what} from {url}"));
        let staging = self.staging()?;
        let repository = staging.path().join("repository");
        let failed = |source| Error::Bring { what: what.to_owned(), url: url.to_owned(), source };
        clone_commit(&repository, url, commit).map_err(failed)?;
        make_dirs(target.parent().unwrap_or(&self.dir))?;
        fs::rename(&repository, &target).map_err(Error::io("keep", &target))?;
        Ok(Brought::History(target))
    }

    /// A directory for what is not checked yet; goes with the returned value.
    fn staging(&self) -> Result<Scratch> {
        Scratch::new(&self.dir, "bringing-")
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn fetch(what: &str, url: &str, to: &Path) -> Result<()> {
    let failed =
        |source: Failure| Error::Bring { what: what.to_owned(), url: url.to_owned(), source };
    if let Some(path) = url.strip_prefix("file://") {
        return fs::copy(path, to).map(drop).map_err(|error| failed(error.into()));
    }
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--location", "--silent", "--show-error", "--retry", "3"]);
    curl.args(["--proto", "=https,http", "--proto-redir", "=https,http"]);
    curl.args(["--connect-timeout", "30", "--output"]).arg(to);
    run(curl.args(["--", url])).map_err(failed)
}

/// Makes the bare repository `to`, which holds `commit` of `url` as its branch `master`, and no more history than it must.
fn clone_commit(to: &Path, url: &str, commit: &str) -> Result<(), Failure> {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(to).args(args);
        // A repository that the caller works in is not meant.
        for name in CALLERS {
            git.env_remove(name);
        }
        git.env("GIT_TERMINAL_PROMPT", "0");
        run(&mut git)
    };
    fs::create_dir(to)?;
    git(&["init", "--quiet", "--bare", "--template=", "--initial-branch=master"])?;
    git(&["remote", "add", "origin", url])?;
    let one = git(&["fetch", "--quiet", "--no-tags", "--depth=1", "origin", commit]);
    if one.is_err() {
        // Some servers give branches alone.
        git(&["fetch", "--quiet", "--no-tags", "origin"])?;
    }
    git(&["update-ref", "refs/heads/master", commit])?;
    git(&["update-ref", "refs/remotes/origin/master", commit])?;
    match fs::remove_file(to.join("FETCH_HEAD")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Variables by which git, where it has started this program, names the repository it works in.
const CALLERS: [&str; 5] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
];

/// Runs `command`; an error has what it wrote to standard error.
fn run(command: &mut Command) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("failed to run `{program}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    match said.is_empty() {
        true => Err(format!("`{program}` ended with {}", output.status).into()),
        false => Err(format!("`{program}` says: {said}").into()),
    }
}

fn digest_of(path: &Path) -> Result<String> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Makes `dir` and what is missing on the way. If it was not there it is private: images hold setuid programs, which are nothing
/// for those who happen to be on this machine.
pub(crate) fn make_dirs(dir: &Path) -> Result<()> {
    let make = || {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            made => made,
        }
    };
    make().map_err(Error::io("make the directory", dir))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, Downloads) {
        let dir = tempfile::tempdir().unwrap();
        let downloads = Downloads::new(dir.path().join("downloads"));
        (dir, downloads)
    }

    fn file(path: &Path, digest: Option<&str>) -> Source {
        let sha256 = digest.map(str::to_owned);
        Source::Url { url: format!("file://{}", path.display()), sha256 }
    }

    /// What the error says, and what to do about it.
    fn words(error: Error) -> String {
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn a_file_is_brought_once_and_checked() {
        let (dir, downloads) = place();
        let path = dir.path().join("opam");
        fs::write(&path, "hello\n").unwrap();
        let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let told = std::cell::RefCell::new(Vec::new());
        let bring = |digest| {
            let tell = |text: &str| told.borrow_mut().push(text.to_owned());
            downloads.bring("opam 2.1", &file(&path, digest), &tell)
        };
        let error = words(bring(None).unwrap_err());
        assert!(error.starts_with("there is no digest of opam 2.1, `file:///"), "{error}");
        assert!(error.contains(&format!("`sha256 = \"{digest}\"`: compare that")), "{error}");
        let other = digest.replace('5', "6");
        let error = words(bring(Some(&other)).unwrap_err());
        let expected =
            format!("its sha256 is {digest}, not {other}; if it was replaced on purpose");
        assert!(error.contains(&expected), "{error}");
        let Brought::File(kept) = bring(Some(digest)).unwrap() else { panic!("no file") };
        assert_eq!(fs::read_to_string(&kept).unwrap(), "hello\n");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(told.borrow().len(), 3);
        bring(Some(digest)).unwrap();
        assert_eq!(told.borrow().len(), 3, "it was brought twice");
        // Who has damaged what is kept does no harm.
        fs::write(&kept, "hullo\n").unwrap();
        bring(Some(digest)).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "hello\n");
        let left: Vec<_> =
            fs::read_dir(&downloads.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["sha256"]);
    }

    #[test]
    fn what_cannot_be_brought_says_why() {
        let (dir, downloads) = place();
        let digest = "0".repeat(64);
        let gone = file(&dir.path().join("gone"), Some(&digest));
        let error = downloads.bring("Homebrew", &gone, &|_| {}).unwrap_err();
        assert!(
            error.to_string().starts_with("failed to bring Homebrew from `file:///"),
            "{error}"
        );
        let directory = downloads.bring("x", &file(dir.path(), None), &|_| {}).unwrap();
        assert_eq!(directory, Brought::Directory(dir.path().to_owned()));
        let error = downloads.bring("x", &file(dir.path(), Some(&digest)), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("is a directory: it has no sha256"), "{error}");
        let git = Source::Git {
            git: format!("file://{}/gone", dir.path().display()),
            commit: "0".repeat(40),
        };
        let error = downloads.bring("x", &git, &|_| {}).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.starts_with("`git` says: "), "{cause}");
    }

    /// Answers two requests on loopback, for `/opam` and for something that is not there; gives the address.
    fn server() -> String {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut stream = stream.unwrap();
                let mut request = BufReader::new(&stream);
                let (mut first, mut line) = (String::new(), String::new());
                request.read_line(&mut first).unwrap();
                while request.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                let answer = match first.starts_with("GET /opam ") {
                    true => {
                        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"
                    }
                    false => {
                        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    }
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        format!("http://{address}")
    }

    #[test]
    fn files_come_from_servers() {
        if Command::new("curl").arg("--version").output().is_err() {
            let _ = io::Write::write_all(
                &mut io::stderr(),
                b"SKIP: bringing files from servers needs curl\n",
            );
            return;
        }
        let (_dir, downloads) = place();
        let server = server();
        let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let source = |name: &str| Source::Url {
            url: format!("{server}/{name}"),
            sha256: Some(digest.to_owned()),
        };
        let Brought::File(kept) = downloads.bring("opam", &source("opam"), &|_| {}).unwrap() else {
            panic!("no file")
        };
        assert_eq!(fs::read_to_string(kept).unwrap(), "hello\n");
        fs::remove_dir_all(downloads.dir.join("sha256")).unwrap();
        let error = downloads.bring("opam", &source("gone"), &|_| {}).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("404"), "{cause}");
    }
}
