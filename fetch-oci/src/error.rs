//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Why an image could not be brought or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("failed to {action}")]
    Io {
        /// What was being done, as ``read `x` ``.
        action: String,
        /// Its word.
        #[source]
        source: io::Error,
    },
    /// A name that can be no image.
    #[error("`{text}` is no image: {why}")]
    BadName {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A document of an image that makes no sense.
    #[error("the {what} of the image makes no sense: {why}")]
    BadDocument {
        /// Which document, as `manifest`.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes that are not those that were promised.
    #[error("{what} is damaged: it should be {expected}, and is {found}")]
    Damaged {
        /// What was read.
        what: String,
        /// Digest or size that was promised.
        expected: String,
        /// What came.
        found: String,
    },
    /// A layer that cannot be unpacked.
    #[error("layer {layer}: `{entry}` {why}")]
    BadLayer {
        /// The layer's digest.
        layer: String,
        /// The entry, or where in the layer.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than is allowed.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// What was too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// There is no such image where it should be.
    #[error("there is no image `{image}` in {place}")]
    Missing {
        /// What was asked for.
        image: String,
        /// Where it was looked for.
        place: String,
    },
    /// An index without an image for this platform.
    #[error("the image is not for {wanted}, only for {}", known.join(", "))]
    NoPlatform {
        /// What was looked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A blob that an image names and that is not there.
    #[error("{place} lacks {digest}, which the image names")]
    NoBlob {
        /// Where it should be.
        place: String,
        /// Which one.
        digest: Digest,
    },
    /// A registry that cannot be spoken to.
    #[error("the registry {host} cannot be reached")]
    Unreachable {
        /// Its name.
        host: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A registry that refuses.
    #[error("the registry {host} does not let us {action}")]
    Denied {
        /// Its name.
        host: String,
        /// What was asked.
        action: String,
    },
    /// A registry that answers something else than it should.
    #[error("the registry {host} answered {answer} when asked to {action}")]
    Answer {
        /// Its name.
        host: String,
        /// Its answer, in short.
        answer: String,
        /// What was asked.
        action: String,
    },
    /// An image that is not here, and was not to be asked for.
    #[error("the image `{0}` is not here, and registries are not to be asked")]
    NotHere(String),
    /// The token was cancelled.
    #[error("it was cancelled")]
    Cancelled,
}

/// What is not an error is this.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O error met while trying to `action`. One of ours that has come through a reader is given back as it was.
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        match source.downcast::<Self>() {
            Ok(ours) => ours,
            Err(source) => Self::Io { action: action.into(), source },
        }
    }

    /// Failing to `verb` the file at `path`.
    pub(crate) fn path(verb: &str, path: &Path, source: io::Error) -> Self {
        Self::io(format!("{verb} `{}`", path.display()), source)
    }

    /// For readers, which can only fail with this.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// Gives `Result<T, io::Error>` the path it is about.
pub(crate) trait At<T> {
    /// Failing to `verb` the file at `path`.
    fn at(self, verb: &str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, verb: &str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| Error::path(verb, &path.into(), e.into()))
    }
}
