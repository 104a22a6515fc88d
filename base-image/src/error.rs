//! What can go wrong.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image cannot be made, found or put in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked for contradicts itself.
    #[error("{0}")]
    Request(String),
    /// A file is no TOML, or not of the form it should have.
    #[error("failed to understand `{}`", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A file is TOML and still wrong.
    #[error("{}: {what}", .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Nobody says where a part comes from.
    #[error("{}: there is no source of {what} for {platform}", .path.display())]
    NoSource {
        /// The file of sources.
        path: PathBuf,
        /// The part.
        what: String,
        /// The platform, such as `arm64-macos`.
        platform: String,
        /// What there is instead.
        known: String,
    },
    /// A source has no digest to check it by.
    #[error("there is no digest of {what}, `{url}`")]
    NoDigest {
        /// The part.
        what: String,
        /// Where it was brought from.
        url: String,
        /// Its digest as it was brought, in hexadecimal.
        found: String,
    },
    /// What was brought is not what was expected.
    #[error("`{url}` is not the {what} that was expected: its sha256 is {found}, not {expected}")]
    Digest {
        /// The part.
        what: String,
        /// Where it was brought from.
        url: String,
        /// Its digest, in hexadecimal.
        found: String,
        /// What the sources say.
        expected: String,
    },
    /// A source could not be brought.
    #[error("failed to bring {what} from `{url}`")]
    Bring {
        /// The part.
        what: String,
        /// Where from.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A directory of the image's name is there and not ours.
    #[error("`{}` is there, and was not made by `obuild base-image`", .0.display())]
    NotOurs(PathBuf),
    /// There is no such image.
    #[error("there is no base image `{name}` that `obuild base-image` has made")]
    Unknown {
        /// Its name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Somebody else makes or removes the image.
    #[error("another obuild works on the image `{0}`")]
    Busy(String),
    /// The image names places that are gone when it is used.
    #[error("the image names a place of the machine that made it: `{}` holds `{place}`{}", .path.display(), more(*.others))]
    Slot {
        /// A file or link, relative to the image.
        path: PathBuf,
        /// The place.
        place: String,
        /// How many more there are.
        others: usize,
    },
    /// A tree could not be copied or removed.
    #[error("failed to {action}")]
    Tree {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// An operation on a file failed.
    #[error("failed to {action} `{}`", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// Someone asked to stop.
    #[error("the base image is not made: cancelled")]
    Cancelled,
}

fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(", and {others} more do"),
    }
}

impl Error {
    /// For `map_err`: what was done to which file.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What to do about it, when that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSource { known, .. } => format!("the file has {known}"),
            Self::NoDigest { found, .. } => format!(
                "what was brought has `sha256 = \"{found}\"`: compare that with what its makers publish, then write it to the sources"
            ),
            Self::Digest { .. } => "if it was replaced on purpose, compare its new digest with what its makers publish, then \
                 write it to the sources; if not, the mirror is damaged or somebody has meddled with it"
                .to_owned(),
            Self::NotOurs(_) => "move it away, or choose another name with --to".to_owned(),
            Self::Unknown { known, .. } if known.is_empty() => "none has been made yet".to_owned(),
            Self::Unknown { known, .. } => format!("there are {}", known.join(", ")),
            Self::Busy(_) => "wait until that one has ended".to_owned(),
            Self::Slot { .. } => {
                "the step that wrote it must not; nothing was replaced".to_owned()
            }
            Self::Bring { .. } => "name a mirror of it in the sources".to_owned(),
            _ => return None,
        })
    }
}
