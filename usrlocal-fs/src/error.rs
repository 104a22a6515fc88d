//! What can go wrong around a mount.

use std::io;
use std::path::{Path, PathBuf};

/// Why trees could not be served.
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
    /// No mount point was named.
    #[error("no mount point is named")]
    NothingToServe,
    /// A mount point is given relative to nowhere.
    #[error("`{}` is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// A path inside trees leads out of them.
    #[error("`{}` is no path inside a tree: it must be relative and hold no `..`", .0.display())]
    Outside(PathBuf),
    /// Something that answers is mounted there.
    #[error("`{}` is served already: unmount it first with `usrlocal-fs unmount`", .0.display())]
    Mounted(PathBuf),
    /// The kernel's side of FUSE is not what this filesystem needs.
    #[error("FUSE cannot be used here: {0}")]
    Unusable(String),
    /// Not a mount point of this filesystem.
    #[error("`{}` is not served by usrlocal-fs", .0.display())]
    NotServed(PathBuf),
}

/// The result of everything here that can fail as a whole.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Says what was being done when a call failed.
    pub(crate) fn io<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source: source.into() }
    }

    /// The same for a call on a path.
    pub(crate) fn path<E: Into<io::Error>>(verb: &str, path: &Path) -> impl FnOnce(E) -> Self {
        Self::io(format!("{verb} `{}`", path.display()))
    }
}
