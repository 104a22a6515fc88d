//! What a build tells while it runs.

use std::time::Duration;

use crate::id::ResultId;

/// Receives the events of a build, in order for each stage.
///
/// Called on the build's own threads: return soon.
pub trait Observer: Send + Sync {
    /// Takes note of `event`, which happened in `stage`.
    fn event(&self, stage: &Stage, event: Event<'_>);
}

/// Where in a spec an event belongs: the names of the nested builds that lead there; empty for the outermost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stage(pub Vec<String>);

/// Something that happened in a build.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A nested build begins.
    BuildStarted {
        /// Its name.
        name: &'a str,
        /// Its heading, as OBuilder prints it.
        heading: &'a str,
    },
    /// A nested build has ended well.
    BuildFinished {
        /// Its name.
        name: &'a str,
        /// Its result.
        id: &'a ResultId,
    },
    /// An operation begins. `text` is OBuilder's heading: `WORKDIR: OP`, or `(from BASE)`.
    Heading {
        /// The heading; may span lines.
        text: &'a str,
    },
    /// The step whose heading came last has an id; it is looked up, shared or built now.
    StepStarted {
        /// The id it will be known by.
        id: &'a ResultId,
    },
    /// The step has to wait before it can run.
    Waiting {
        /// What for.
        reason: &'a str,
    },
    /// Something the user should know, and that does not stop the build.
    Warning {
        /// One line.
        text: &'a str,
    },
    /// Bytes of the step's log, live or replayed from the cache.
    Output {
        /// The bytes, in order.
        bytes: &'a [u8],
    },
    /// The step begins afresh: what it has printed so far was of an attempt that came to nothing.
    StepRestarted,
    /// The step has ended.
    StepFinished {
        /// Its id.
        id: &'a ResultId,
        /// How it ended.
        end: StepEnd,
        /// How long this client waited for it.
        elapsed: Duration,
    },
}

/// How a step ended for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepEnd {
    /// The result was there.
    Cached,
    /// It was built now, by this client or one it shared the step with.
    Saved,
    /// The command failed, or the step could not be run.
    Failed,
    /// The client (or everyone) gave up.
    Cancelled,
}

/// An observer that ignores everything.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Stage, _: Event<'_>) {}
}
