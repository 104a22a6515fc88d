//! How this machine gets sources.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::repository::{Repository, Scheme};

/// Where programs are looked for: directories that only the system's owner writes. Those of Homebrew may belong to a build user.
pub(crate) const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// How this machine gets sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Mirrors and contexts go into `git/` below it. It is made if it is missing; several processes may share it.
    pub state_dir: PathBuf,
    /// The program. A bare name is looked for in the system's own directories, or in the `PATH` of `environment`.
    pub git: PathBuf,
    /// What the sources of one job may take.
    pub limits: Limits,
    /// The key for repositories behind ssh; without one they are refused.
    pub ssh: Option<Ssh>,
    /// Directories below which `file:` repositories may lie; without one they are refused.
    pub file_roots: Vec<PathBuf>,
    /// Variables for Git beyond those it is always given, such as `https_proxy`, and nothing else.
    pub environment: Vec<(OsString, OsString)>,
}

/// What ssh may use. Nothing of the user's own is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// A private key without a passphrase.
    pub key: PathBuf,
    /// The hosts' public keys, as `ssh-keyscan` prints them; other hosts are refused.
    pub known_hosts: PathBuf,
}

impl Config {
    /// The defaults, with this state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            git: "git".into(),
            limits: Limits::default(),
            ssh: None,
            file_roots: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Git's names of the protocols that are allowed.
    pub(crate) fn protocols(&self) -> String {
        let mut all = vec!["http", "https", "git"];
        all.extend(self.ssh.is_some().then_some("ssh"));
        all.extend((!self.file_roots.is_empty()).then_some("file"));
        all.join(":")
    }

    /// Refuses what this machine is not configured for. `met` says where the repository was named.
    pub(crate) fn check(&self, repository: &Repository, met: &str) -> Result<()> {
        let refused = |why: &str, hint: &str| {
            Err(Error::Refused {
                what: format!("the repository `{repository}`{met}"),
                why: why.into(),
                hint: hint.into(),
            })
        };
        match repository.scheme() {
            Scheme::Http | Scheme::Https | Scheme::Git => Ok(()),
            Scheme::Ssh if self.ssh.is_some() => Ok(()),
            Scheme::Ssh => refused(
                "this worker has no key for ssh",
                "use the repository's https URL, or ask the operator to configure a key",
            ),
            Scheme::File if self.is_below_root(Path::new(repository.path())) => Ok(()),
            Scheme::File => refused(
                "this worker takes no repository from that directory of its own",
                "use the repository's https URL, or ask the operator to allow the directory",
            ),
        }
    }

    fn is_below_root(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        let roots = self.file_roots.iter().filter_map(|root| root.canonicalize().ok());
        roots.into_iter().any(|root| path.starts_with(root))
    }
}
