//! What can go wrong in a build, in the terms of its spec.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bstr::BString;

use crate::cache::StepFailure;
use crate::error::{FetchError, SandboxError, StoreError};
use crate::id::ResultId;
use crate::index::IndexError;
use crate::manifest::CopyShapeError;

/// What kind of thing went wrong, which decides what the user must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step failed: look at its log.
    Step,
    /// The spec, or what was given with it, is wrong.
    Spec,
    /// The store, or the system below.
    System,
    /// Somebody asked to stop.
    Cancelled,
}

/// Why a build gave no result.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Somebody asked to stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// A step failed.
    #[error("step `{heading}` failed")]
    Step {
        /// The id its result would have had.
        id: ResultId,
        /// Its heading.
        heading: String,
        /// Whether its tree was kept.
        kept: bool,
        /// Why.
        #[source]
        source: Arc<StepFailure>,
    },
    /// A step asks for a secret that nobody gave.
    #[error("step `{heading}` asks for the secret `{id}`, which was not given")]
    MissingSecret {
        /// The secret.
        id: BString,
        /// The step's heading.
        heading: String,
        /// The secrets that were given.
        given: Vec<BString>,
    },
    /// The sandbox cannot do what a step asks for.
    #[error("step `{heading}` cannot be run in this sandbox")]
    Unsupported {
        /// The step's heading.
        heading: String,
        /// Why.
        #[source]
        source: SandboxError,
    },
    /// The sources of a copy cannot be read, or do not fit its destination.
    #[error("step `{heading}` cannot copy")]
    Copy {
        /// The step's heading.
        heading: String,
        /// Why.
        #[source]
        source: CopyError,
    },
    /// The base image cannot be looked at.
    #[error("the base image `{name}` cannot be used")]
    Base {
        /// Its name.
        name: BString,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// The store failed outside any step.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index failed outside any step.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl BuildError {
    /// Names the step that failed.
    pub(super) fn from_failure(
        failure: Arc<StepFailure>,
        id: ResultId,
        heading: String,
        kept: bool,
    ) -> Self {
        match &*failure {
            StepFailure::Cancelled => Self::Cancelled,
            _ => Self::Step { id, heading, kept, source: failure },
        }
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cancelled => Kind::Cancelled,
            Self::Step { source, .. } => match &**source {
                StepFailure::Copy(CopyError::Io { .. }) => Kind::System,
                StepFailure::Command(_) | StepFailure::Copy(_) => Kind::Step,
                StepFailure::Cancelled => Kind::Cancelled,
                StepFailure::Fetch(FetchError::Unknown { .. }) => Kind::Spec,
                StepFailure::Sandbox(SandboxError::Unsupported { .. }) => Kind::Spec,
                _ => Kind::System,
            },
            Self::MissingSecret { .. } | Self::Unsupported { .. } | Self::Copy { .. } => Kind::Spec,
            Self::Base { source: FetchError::Unknown { .. }, .. } => Kind::Spec,
            Self::Base { .. } | Self::Store(_) | Self::Index(_) => Kind::System,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let full = || {
            Some(
                "make room: `obuild gc --min-free SIZE` deletes what was not used for longest"
                    .to_owned(),
            )
        };
        match self {
            Self::Step { id, kept, source, .. } => match &**source {
                StepFailure::Command(_) if *kept => {
                    Some(format!("`obuild shell {}` opens its tree", id.short()))
                }
                StepFailure::Command(_) => Some(format!(
                    "`obuild log {}` shows its log; build with --keep-failed to look into its tree",
                    id.short()
                )),
                StepFailure::Store(StoreError::Full { .. }) => full(),
                StepFailure::Index(error) if error.is_full() => full(),
                StepFailure::Fetch(error) => fetch_hint(error),
                StepFailure::Sandbox(error) => sandbox_hint(error),
                StepFailure::Copy(error) => error.hint(),
                _ => None,
            },
            Self::MissingSecret { id, given, .. } if given.is_empty() => {
                Some(format!("give it with `--secret {id}:FILE`"))
            }
            Self::MissingSecret { id, given, .. } => {
                let given: Vec<_> = given.iter().map(|id| format!("`{id}`")).collect();
                Some(format!("give it with `--secret {id}:FILE`; given were {}", given.join(", ")))
            }
            Self::Unsupported { source, .. } => sandbox_hint(source),
            Self::Copy { source, .. } => source.hint(),
            Self::Base { source, .. } => fetch_hint(source),
            Self::Store(StoreError::Full { .. }) => full(),
            Self::Index(error) if error.is_full() => full(),
            Self::Cancelled | Self::Store(_) | Self::Index(_) => None,
        }
    }
}

fn fetch_hint(error: &FetchError) -> Option<String> {
    if let FetchError::Unknown { hint, .. } = error { Some(hint.clone()) } else { None }
}

fn sandbox_hint(error: &SandboxError) -> Option<String> {
    if let SandboxError::Unsupported { hint, .. } = error { Some(hint.clone()) } else { None }
}

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source is not there.
    #[error("there is no `{path}` in `{dir}`")]
    Missing {
        /// As the spec has it.
        path: BString,
        /// Where it was looked for.
        dir: PathBuf,
        /// The name there that is most like it.
        nearest: Option<String>,
    },
    /// A source leads upwards.
    #[error("the source `{0}` contains `..`")]
    DotDot(BString),
    /// A source leads through a symbolic link.
    #[error("the source `{path}` leads through `{link}`, which is a symbolic link")]
    ThroughLink {
        /// As the spec has it.
        path: BString,
        /// The link.
        link: BString,
    },
    /// Directories in directories in directories.
    #[error("`{path}` lies more than {limit} directories deep")]
    TooDeep {
        /// In the source.
        path: BString,
        /// How deep it may lie.
        limit: usize,
    },
    /// Something that cannot be copied.
    #[error("`{path}` is {kind}")]
    Kind {
        /// In the source.
        path: BString,
        /// What it is.
        kind: &'static str,
    },
    /// The sources do not fit the destination.
    #[error(transparent)]
    Shape(#[from] CopyShapeError),
    /// A source is not what it was when the step's id was reckoned.
    #[error("`{0}` changed while it was being copied")]
    Changed(BString),
    /// The destination is taken by something else.
    #[error("cannot copy to `{path}`: {why}")]
    Target {
        /// In the tree.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// The operating system failed.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its word.
        #[source]
        source: io::Error,
    },
}

impl CopyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { nearest: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::Missing { .. } => {
                Some("sources are looked for in the context directory".to_owned())
            }
            Self::DotDot(_) => Some(
                "sources lie below the context directory: give a CONTEXT further up".to_owned(),
            ),
            Self::ThroughLink { .. } => {
                Some("name the real path; `copy` never follows links".to_owned())
            }
            Self::Kind { .. } => {
                Some("regular files, directories and symbolic links can be copied".to_owned())
            }
            Self::Changed(_) => Some("build again when nothing writes to the context".to_owned()),
            Self::TooDeep { .. } => Some("leave it out with `exclude`".to_owned()),
            Self::Shape(_) | Self::Target { .. } | Self::Io { .. } => None,
        }
    }
}
