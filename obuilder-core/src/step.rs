//! A command to run, what it may use, and how it ended: the data of [`crate::contracts::Sandbox`].

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bstr::{BStr, BString, ByteSlice};

use crate::spec::User;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Program and arguments.
    pub argv: Vec<BString>,
    /// Working directory, absolute, as the spec says it; made if missing.
    pub workdir: BString,
    /// The step's environment; no name stands twice.
    pub env: Vec<(BString, BString)>,
    /// Who runs it.
    pub user: User,
    /// Networks to join; empty means none but loopback.
    pub network: Vec<BString>,
    /// Caches to mount.
    pub caches: Vec<CacheMount>,
    /// Secrets to show; see [`Step::secrets_of_one_name`].
    pub secrets: Vec<SecretMount>,
    /// Longest time it may run; `None` for no limit.
    pub timeout: Option<Duration>,
}

impl Step {
    /// The last part of a target that two secrets share, if any do. A sandbox shows all secrets of a step in one directory
    /// too, so its check refuses such a step.
    pub fn secrets_of_one_name(&self) -> Option<&BStr> {
        let mut names = HashSet::new();
        let targets = self.secrets.iter().map(|secret| secret.target.rsplit_str("/"));
        let mut last_parts = targets.filter_map(|mut parts| parts.find(|part| !part.is_empty()));
        last_parts.find(|name| !names.insert(*name)).map(BStr::new)
    }
}

/// A cache shown to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// The cache's name.
    pub id: BString,
    /// The leased copy; empty in a [`Sandbox::check`](crate::contracts::Sandbox::check), which comes before the lease.
    pub dir: PathBuf,
    /// Where the step sees it.
    pub target: BString,
}

/// A secret shown to a step.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// The secret's name.
    pub id: BString,
    /// Where the step sees it.
    pub target: BString,
    /// The secret itself.
    pub value: BString,
}

impl fmt::Debug for SecretMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the value.
        f.debug_struct("SecretMount")
            .field("id", &self.id)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// Numeric owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status; 0 is success.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It was stopped because the token was cancelled.
    Cancelled,
    /// It was stopped at its time limit.
    TimedOut(Duration),
}
