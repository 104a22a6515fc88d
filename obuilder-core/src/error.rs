//! What can go wrong behind each contract.

use std::error::Error;
use std::io;

use bstr::BString;

use crate::id::ResultId;

/// An error with all its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such result.
    #[error("there is no result `{0}` in the store")]
    Missing(ResultId),
    /// Someone holds a pin.
    #[error("result `{0}` is in use")]
    InUse(ResultId),
    /// The volume (or a quota) is full.
    #[error("no space left on the store's volume while trying to {action}")]
    Full {
        /// What was being done, as `copy a to b`.
        action: String,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// The store's volume takes no writes, or not ours.
    #[error("the store cannot be written: failed to {action}")]
    NotWritable {
        /// What was being done.
        action: String,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// The store was made by a newer version of this program.
    #[error(
        "the store at `{location}` has format {found}, and this program knows formats up to {known}"
    )]
    Newer {
        /// The store.
        location: String,
        /// Its format.
        found: u32,
        /// The newest we know.
        known: u32,
    },
    /// There is something else where the store should be.
    #[error("there is no store at `{location}`, but other things, such as `{found}`")]
    Foreign {
        /// Where the store should be.
        location: String,
        /// A name that no store has.
        found: String,
    },
    /// Anything else.
    #[error("failed to {action}")]
    Failed {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// Sorts an I/O error into its variant; `action` completes "failed to …".
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, source }
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::NotWritable { action, source }
            }
            _ => Self::Failed { action, source: Box::new(source) },
        }
    }
}

/// Why a sandbox could not run a step.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The step asks for something this sandbox cannot give.
    #[error("{what}")]
    Unsupported {
        /// What was asked and why it cannot be had.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Something failed before, during or after the command.
    #[error("failed to {action}")]
    Failed {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Why an image could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No such image.
    #[error("there is no base image `{name}`")]
    Unknown {
        /// What was asked for.
        name: BString,
        /// Where images were looked for and which there are.
        known: Vec<String>,
        /// What to do.
        hint: String,
    },
    /// The token was cancelled.
    #[error("fetching `{0}` was cancelled")]
    Cancelled(BString),
    /// Anything else.
    #[error("failed to {action}")]
    Failed {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}
