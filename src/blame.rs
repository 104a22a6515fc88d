//! Whose fault a library's error is, and what to do about it: the one place that decides.

use std::error::Error;
use std::io;

use obuilder_core::cache::{CacheError, StepFailure};
use obuilder_core::error::{FetchError, SandboxError, StoreError};
use obuilder_core::interpreter::{self, BuildError};

use store_zfs::ZfsFailed;

use crate::error::{CommandError, Kind};

impl From<BuildError> for CommandError {
    fn from(error: BuildError) -> Self {
        let kind = match error.kind() {
            interpreter::Kind::Step => Kind::Step,
            interpreter::Kind::Spec => Kind::Usage,
            interpreter::Kind::System => Kind::System,
            interpreter::Kind::Cancelled => Kind::Interrupted,
        };
        if kind != Kind::Interrupted && is_full(&error) {
            return CommandError::from_error(Kind::System, &error).hint(MAKE_ROOM);
        }
        let kind = if is_configuration(&error) { Kind::Usage } else { kind };
        CommandError::from_error(kind, &error)
            .maybe_hint(known_bases(&error))
            .maybe_hint(error.hint())
            .maybe_hint(zfs_remedy(&error))
    }
}

/// The base images there are, when one was asked for that is not.
fn known_bases(error: &BuildError) -> Option<String> {
    let fetch = match error {
        BuildError::Base { source, .. } => source,
        BuildError::Step { source, .. } => match &**source {
            StepFailure::Fetch(fetch) => fetch,
            _ => return None,
        },
        _ => return None,
    };
    let FetchError::Unknown { known, .. } = fetch else { return None };
    if known.is_empty() {
        return None;
    }
    let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    Some(format!("the base images are {}; --images DIR looks elsewhere", known.join(", ")))
}

const MAKE_ROOM: &str =
    "make room: `obuild gc --min-free SIZE` deletes what was not used for longest";

/// Whether a full disk is at the bottom of it, whatever was being done.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let full = error.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    });
    full || error.source().is_some_and(is_full)
}

/// What to do about a call of `zfs` that is at the bottom of it.
pub(crate) fn zfs_remedy(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref::<ZfsFailed>() {
        Some(failed) => Some(failed.remedy.clone()),
        None => error.source().and_then(zfs_remedy),
    }
}

/// Whether other settings would have helped: the sandbox finds some of them wrong only when it runs a step.
fn is_configuration(error: &(dyn Error + 'static)) -> bool {
    use sandbox_macos::Error::{HomeTaken, OtherVolume, Unreachable, UserClash};
    let wrong = error.downcast_ref().is_some_and(|error| {
        matches!(error, HomeTaken(_) | OtherVolume { .. } | Unreachable { .. } | UserClash { .. })
    });
    wrong || error.source().is_some_and(is_configuration)
}

impl From<base_image::Error> for CommandError {
    fn from(error: base_image::Error) -> Self {
        use base_image::Error::{
            Bring, Busy, Cancelled, Digest, Io, NoDigest, NoSource, NotOurs, Request, Slot, Syntax,
            Table, Tree, Unknown,
        };
        let kind = match error {
            Request(_) | Syntax { .. } | Table { .. } | NoSource { .. } | NoDigest { .. } => {
                Kind::Usage
            }
            Digest { .. } | NotOurs(_) | Unknown { .. } => Kind::Usage,
            Bring { .. } | Busy(_) | Slot { .. } | Tree { .. } | Io { .. } => Kind::System,
            Cancelled => Kind::Interrupted,
        };
        CommandError::from_error(kind, &error).maybe_hint(error.hint())
    }
}

impl From<CacheError> for CommandError {
    fn from(error: CacheError) -> Self {
        let hint = match &error {
            CacheError::Store(error) => store_hint(error),
            CacheError::Index(error) if error.is_full() => Some(MAKE_ROOM.to_owned()),
            CacheError::UnknownId { nearest: Some(near), .. } => {
                Some(format!("did you mean `{}`? `obuild ls` lists them all", near.short()))
            }
            CacheError::UnknownId { .. } => Some("`obuild ls` lists them all".to_owned()),
            CacheError::AmbiguousId { matches, .. } => {
                let lines: Vec<_> = matches.iter().map(|id| id.to_string()).collect();
                Some(format!("give more digits of one of\n{}", lines.join("\n")))
            }
            CacheError::HasChildren { children, .. } => {
                let lines: Vec<_> = children.iter().map(|id| id.to_string()).collect();
                let lines = lines.join("\n");
                Some(format!("--recursive deletes them too:\n{lines}"))
            }
            _ => None,
        };
        let kind = match error {
            CacheError::UnknownId { .. }
            | CacheError::AmbiguousId { .. }
            | CacheError::NotAnId(_)
            | CacheError::HasChildren { .. } => Kind::Usage,
            _ => Kind::System,
        };
        CommandError::from_error(kind, &error).maybe_hint(hint)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        CommandError::from_error(Kind::System, &error).maybe_hint(store_hint(&error))
    }
}

impl From<SandboxError> for CommandError {
    fn from(error: SandboxError) -> Self {
        match &error {
            SandboxError::Unsupported { hint, .. } => {
                CommandError::from_error(Kind::Usage, &error).hint(hint)
            }
            SandboxError::Failed { .. } if is_configuration(&error) => {
                CommandError::from_error(Kind::Usage, &error)
            }
            SandboxError::Failed { .. } => {
                CommandError::from_error(Kind::System, &error).maybe_hint(zfs_remedy(&error))
            }
        }
    }
}

fn store_hint(error: &StoreError) -> Option<String> {
    let hint = match error {
        StoreError::InUse(_) => "try again when the build that uses it has ended",
        StoreError::Full { .. } => MAKE_ROOM,
        StoreError::NotWritable { .. } => "choose another store with --store, or become its owner",
        StoreError::Foreign { location, .. } if location.starts_with("zfs:") => {
            return Some(format!(
                "name a dataset without such names for --store: `zfs create POOL/obuild` makes one for `zfs:POOL/obuild`, \
                 with POOL the pool of `{location}`"
            ));
        }
        StoreError::Foreign { .. } => "name an empty directory for --store, or a new one in it",
        StoreError::Newer { .. } => "use the version of obuild that made it, or another --store",
        StoreError::Failed { .. } => return zfs_remedy(error),
        StoreError::Missing(_) => return None,
    };
    Some(hint.to_owned())
}
