//! The shapes that `--json` prints, apart from the types that the libraries keep for themselves.

use obuilder_core::ResultId;
use obuilder_core::cache::{Entry, GcReport};
use serde::Serialize;

/// A result.
#[derive(Serialize)]
pub(super) struct ResultFacts<'a> {
    id: &'a ResultId,
    created: &'a str,
    used: &'a str,
    children: u64,
    parent: Option<&'a ResultId>,
    heading: Option<&'a str>,
    /// How long its step took.
    seconds: Option<f64>,
}

impl<'a> From<&'a Entry> for ResultFacts<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            id: &entry.id,
            created: &entry.created,
            used: &entry.used,
            children: entry.children,
            parent: entry.parent.as_ref(),
            heading: entry.heading.as_deref(),
            seconds: entry.elapsed.map(|time| time.as_secs_f64()),
        }
    }
}

/// What a collection did.
#[derive(Serialize)]
pub(super) struct Collection<'a> {
    deleted: Vec<Deleted<'a>>,
    kept: Vec<Reason<'a>>,
    failed: Vec<Reason<'a>>,
    caches: Vec<CacheGone<'a>>,
    /// Bytes of trees that were kept for the next step.
    warm: u64,
    /// Bytes of what was deleted before and is still there.
    waiting: u64,
}

#[derive(Serialize)]
struct CacheGone<'a> {
    name: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Deleted<'a> {
    id: &'a ResultId,
    bytes: u64,
}

#[derive(Serialize)]
struct Reason<'a> {
    id: &'a ResultId,
    reason: &'a str,
}

impl<'a> From<&'a GcReport> for Collection<'a> {
    fn from(report: &'a GcReport) -> Self {
        let reasons = |all: &'a [(ResultId, String)]| {
            all.iter().map(|(id, reason)| Reason { id, reason }).collect()
        };
        Self {
            deleted: report
                .deleted
                .iter()
                .map(|(id, bytes)| Deleted { id, bytes: *bytes })
                .collect(),
            kept: reasons(&report.kept),
            failed: reasons(&report.failed),
            caches: report
                .caches
                .iter()
                .map(|(name, bytes)| CacheGone { name, bytes: *bytes })
                .collect(),
            warm: report.warm,
            waiting: report.waiting,
        }
    }
}
