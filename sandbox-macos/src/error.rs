//! What can go wrong around a step.

use std::io;
use std::path::PathBuf;

use obuilder_core::error::SandboxError;

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a step could not be run, or not be cleaned up after.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the system failed.
    #[error("failed to {action}")]
    Io {
        /// What was being done.
        action: String,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// Something that is not ours stands where trees are placed.
    #[error(
        "`{0}` exists and is not a tree that a build left there: move it away, or choose another home with `--home`"
    )]
    HomeTaken(PathBuf),
    /// The step has renamed or replaced its home.
    #[error("the tree at `{0}` has been moved away by its step")]
    HomeGone(PathBuf),
    /// A rename between volumes.
    #[error(
        "`{from}` and `{home}` are on different volumes: choose a home on the store's volume with `--home`"
    )]
    OtherVolume {
        /// What was to be placed.
        from: PathBuf,
        /// The canonical home.
        home: PathBuf,
    },
    /// The build user has no way to its home.
    #[error(
        "build user `{user}` cannot reach its home `{home}`: `{dir}` lets only its owner pass; allow it with `chmod o+x`, or choose another home with `--home`"
    )]
    Unreachable {
        /// The build user.
        user: String,
        /// The canonical home.
        home: PathBuf,
        /// The directory that is closed.
        dir: PathBuf,
    },
    /// The build user's name or number belongs to somebody else.
    #[error("cannot have a build user `{name}` with uid {uid}: {clash}")]
    UserClash {
        /// The wanted name.
        name: String,
        /// The wanted number.
        uid: u32,
        /// Who is in the way, and what to do.
        clash: String,
    },
    /// A system tool failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// The filesystem that shows steps their trees does not start.
    #[error("the filesystem of build users does not start: {0}")]
    NotServed(String),
    /// Whatever the step read or wrote since then has failed, whether or not it says so.
    #[error("the filesystem of build users ended while the step ran")]
    ServerEnded,
    /// Steps of several slots cannot be shown the same home.
    #[error(
        "several slots need a view of the filesystem for each step, which the system refuses: use `--slots 1`, or show them by FUSE with `--fuse`"
    )]
    OneSlotOnly,
    /// A symlink or a file stands on the way to where something is to be placed.
    #[error(
        "`{0}` in the tree is no directory (or a symlink to one), so nothing can be placed below it"
    )]
    NotADirectory(PathBuf),
    /// Processes that outlive SIGKILL, or cannot be found any more.
    #[error(
        "processes of the step may be alive: {0}; the tree stays at its home until the next step clears it"
    )]
    Survivors(String),
    /// The wait for a lock was cancelled; no failure, and never seen outside.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// For `map_err`: `action` completes "failed to …".
    pub(crate) fn io<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action: action.into(), source: source.into() }
    }

    /// For failures after which nobody knows whether processes live.
    pub(crate) fn into_survivors(self) -> Self {
        match self {
            Self::Survivors(_) => self,
            other => Self::Survivors(other.with_sources()),
        }
    }

    /// The message with those of all sources.
    pub(crate) fn with_sources(&self) -> String {
        let first = std::error::Error::source(self);
        let sources = std::iter::successors(first, |error| error.source());
        sources.fold(self.to_string(), |text, source| format!("{text}: {source}"))
    }
}

/// For `map_err`: wraps an error with the part of the step that it ended; `action` completes "failed to …".
pub(crate) fn during(action: &str) -> impl FnOnce(Error) -> SandboxError {
    move |source| match source {
        Error::Io { action, source } => SandboxError::Failed { action, source: Box::new(source) },
        other => SandboxError::Failed { action: action.to_owned(), source: Box::new(other) },
    }
}
