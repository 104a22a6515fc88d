//! How much a job's sources may take.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// What getting the sources of one job may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time, waiting for other jobs not counted.
    pub time: Duration,
    /// Bytes that may be fetched, from all repositories together and as they are packed.
    pub fetch: u64,
    /// Bytes that must stay free on the volume of the mirrors while something is fetched.
    pub free: u64,
    /// Bytes of all files of a context, submodules included.
    pub files: u64,
    /// How many files and links a context may hold, and how many references and objects of their own a mirror.
    pub entries: u64,
    /// How many submodules a context may have, at all depths together.
    pub submodules: usize,
    /// How deep submodules may lie in one another.
    pub depth: usize,
    /// Bytes of memory that one process of Git may map. Linux enforces it, macOS does not.
    pub memory: u64,
    /// Bytes of Git's own words in the log, for each command.
    pub output: u64,
    /// Bytes of all mirrors together; those not used for the longest time are removed after a fetch that exceeds it.
    pub mirrors: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            time: Duration::from_secs(30 * 60),
            fetch: 4 * GIB,
            free: GIB,
            files: 8 * GIB,
            entries: 1_000_000,
            submodules: 500,
            depth: 16,
            memory: 4 * GIB,
            output: 1 << 20,
            mirrors: 50 * GIB,
        }
    }
}

/// When a job's time is up.
#[derive(Debug)]
pub(crate) struct Clock {
    end: Cell<Instant>,
}

impl Clock {
    pub(crate) fn start(limits: &Limits) -> Self {
        Self { end: Cell::new(Instant::now() + limits.time) }
    }

    /// What is left.
    pub(crate) fn left(&self) -> Duration {
        self.end.get().saturating_duration_since(Instant::now())
    }

    /// Does something that takes none of the job's own time.
    pub(crate) fn stopped<T>(&self, wait: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let done = wait();
        self.end.set(self.end.get() + before.elapsed());
        done
    }
}
