//! What can go wrong with a tree.

use std::io;
use std::path::PathBuf;

/// Why an operation on a tree stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("failed to {action} `{}`", .path.display())]
    Io {
        /// What was being done, as `read` or `create`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Its word.
        #[source]
        source: io::Error,
    },
    /// The destination lies inside the source.
    #[error("failed to copy `{}` into itself", .0.display())]
    IntoItself(PathBuf),
    /// An index is not what was written.
    #[error("the index `{}` is damaged", .0.display())]
    Damaged(PathBuf),
    /// The caller's hook asked to stop.
    #[error("the operation was cancelled")]
    Cancelled,
}

impl Error {
    /// What was being done (it completes "failed to …") and the operating system's word on it.
    pub fn into_parts(self) -> (String, io::Error) {
        match self {
            Self::Io { action, path, source } => (format!("{action} `{}`", path.display()), source),
            Self::IntoItself(path) => (
                format!("copy `{}` into itself", path.display()),
                io::ErrorKind::InvalidInput.into(),
            ),
            Self::Damaged(path) => {
                (format!("read the index `{}`", path.display()), io::ErrorKind::InvalidData.into())
            }
            Self::Cancelled => ("finish".to_owned(), io::ErrorKind::Interrupted.into()),
        }
    }
}
