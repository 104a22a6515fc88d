//! Counters: by operation, by view, and of the caches.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::call::Operation;

/// Upper bounds of the latency classes, in microseconds; slower calls fall into a last class without a bound.
pub(crate) const BOUNDS: [u64; 7] = [5, 20, 100, 500, 2_000, 20_000, 200_000];

/// Calls of one operation.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) nanoseconds: AtomicU64,
    pub(crate) classes: [AtomicU64; BOUNDS.len() + 1],
}

/// Calls by operation.
#[derive(Debug)]
pub(crate) struct Counts(Box<[AtomicU64]>);

impl Default for Counts {
    fn default() -> Self {
        Self(Operation::NAMES.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Counts {
    /// Counts one call.
    pub(crate) fn add(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Relaxed);
    }

    /// Names and numbers of the operations that were called.
    pub(crate) fn called(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Relaxed));
        Operation::NAMES.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }
}

/// How often something that was wanted was there already.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
}

impl Hits {
    /// Counts one question.
    pub(crate) fn add(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.fetch_add(1, Relaxed);
    }
}

/// All counters of one mount.
#[derive(Debug)]
pub(crate) struct Metrics {
    calls: Box<[Calls]>,
    /// Views found unchanged.
    pub(crate) views: Hits,
    /// Nodes known already when looked up.
    pub(crate) nodes: Hits,
    /// Directories whose descriptor was kept.
    pub(crate) descriptors: Hits,
    /// Opens that the kernel serves by itself.
    pub(crate) passthrough: Hits,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Operation::NAMES.iter().map(|_| Calls::default()).collect(),
            views: Hits::default(),
            nodes: Hits::default(),
            descriptors: Hits::default(),
            passthrough: Hits::default(),
        }
    }
}

impl Metrics {
    /// Counts one call.
    pub(crate) fn record(&self, operation: Operation, took: Duration, failed: bool) {
        let calls = &self.calls[operation as usize];
        let class = BOUNDS.partition_point(|bound| u128::from(*bound) < took.as_micros());
        calls.done.fetch_add(1, Relaxed);
        calls.failed.fetch_add(u64::from(failed), Relaxed);
        calls.nanoseconds.fetch_add(took.as_nanos() as u64, Relaxed);
        calls.classes[class].fetch_add(1, Relaxed);
    }

    /// The operations that were called, by name.
    pub(crate) fn called(&self) -> impl Iterator<Item = (&'static str, &Calls)> {
        let all = Operation::NAMES.iter().copied().zip(self.calls.iter());
        all.filter(|(_, calls)| calls.done.load(Relaxed) > 0)
    }
}
