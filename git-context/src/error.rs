//! Why a job did not get its sources.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a job did not get its sources.
///
/// The text of [`Error::Command`] is what clients of the original meet at the end of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for, or what it led to, is not taken.
    #[error("{what} is refused: {why}")]
    Refused {
        /// What, and where it was met.
        what: String,
        /// Why it is not taken.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The token was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A command of Git failed; what it said stands in the log.
    #[error("{label} failed with {ending}")]
    Command {
        /// Such as `git-fetch`.
        label: &'static str,
        /// How it ended.
        ending: Ending,
        /// What to do, where that can be told.
        hint: Option<String>,
    },
    /// The repository has no such commit.
    #[error("the commit `{commit}` is not in `{repository}`")]
    NoCommit {
        /// The commit.
        commit: String,
        /// The repository, without a password.
        repository: String,
    },
    /// It took too long, waiting for others not counted.
    #[error("{doing} was stopped: getting the sources may take {} s", .limit.as_secs_f64())]
    TooSlow {
        /// What was being done.
        doing: String,
        /// How long it may take.
        limit: Duration,
    },
    /// Something is larger than the configuration allows.
    #[error("{what} is larger than the limit of {limit} {unit}")]
    TooLarge {
        /// What.
        what: String,
        /// How large it may be.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The worker's disk has no room for more.
    #[error("{what} would leave less than {least} bytes free on the worker's disk")]
    VolumeFull {
        /// What.
        what: String,
        /// What must stay free.
        least: u64,
    },
    /// Git could not be started.
    #[error("failed to run `{}`", .program.display())]
    NoGit {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log would not take what was written to it.
    #[error("failed to write to the log")]
    Log(#[source] io::Error),
    /// Anything else.
    #[error("failed to {action}")]
    Failed {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What this crate's calls return.
pub type Result<T> = std::result::Result<T, Error>;

/// How a command that failed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit-code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Error {
    /// What to do about it, for the person who reads the log.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Command { label: "git-fetch", hint: None, .. } => {
                "Git's own words stand above; a repository that is not public needs a user and password in its URL, or a key".into()
            }
            Self::Command { hint, .. } => return hint.clone(),
            Self::NoCommit { .. } => "push the commit to a branch, a pull request or a merge request of that repository; \
                a commit that was replaced by a force-push may be gone from it"
                .into(),
            Self::TooSlow { .. } | Self::TooLarge { .. } => {
                "ask the operator of this worker to raise the limit if the sources need it".into()
            }
            Self::VolumeFull { .. } => {
                "try again later; the operator of this worker can make room where its mirrors are"
                    .into()
            }
            Self::NoGit { .. } => "install git, or say in the configuration where it is".into(),
            Self::Cancelled | Self::Log(_) | Self::Failed { .. } => return None,
        })
    }

    /// For `map_err`: an I/O error; `action` completes "failed to …".
    pub(crate) fn io<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Failed { action: action.into(), source: source.into().into() }
    }

    /// Whether a command failed in a way that a broken mirror could explain.
    pub(crate) fn is_command(&self) -> bool {
        matches!(self, Self::Command { .. })
    }
}
