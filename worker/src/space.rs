//! Makes room in the store before it is needed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use obuilder_core::Cancel;
use obuilder_core::cache::{GcLimits, ResultCache};

use crate::metrics::{Metrics, add};

/// How soon room is made again: what others have filled the volume with no pruning helps against.
const PAUSE: Duration = Duration::from_secs(60);

/// Keeps part of the store's volume free.
pub struct Space {
    cache: Arc<ResultCache>,
    metrics: Arc<Metrics>,
    /// The part that is to be free, from 0 to 1.
    part: f64,
    pruning: AtomicBool,
    /// When the last pruning ended.
    done: (Mutex<Option<Instant>>, Condvar),
}

impl Space {
    /// Keeps `percent` of the volume of `cache` free.
    pub fn new(cache: Arc<ResultCache>, percent: f64, metrics: Arc<Metrics>) -> Arc<Self> {
        let part = (percent / 100.0).clamp(0.0, 1.0);
        let (pruning, done) = (AtomicBool::new(false), (Mutex::default(), Condvar::new()));
        Arc::new(Self { cache, metrics, part, pruning, done })
    }

    /// Has room made in the background when there is less than there should be, and waits for it only when there is less
    /// than half of that.
    pub fn before_a_job(self: &Arc<Self>, cancel: &Cancel) {
        let Some((free, wanted)) = self.room().filter(|(free, wanted)| free < wanted) else {
            return;
        };
        self.begin(wanted);
        if free >= wanted / 2 {
            return;
        }
        tracing::info!("a job waits until there is room in the store");
        let _wake = cancel.on_cancel({
            let space = self.clone();
            move || space.done.1.notify_all()
        });
        let mut lock = self.done.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.pruning.load(Ordering::SeqCst) && !cancel.is_cancelled() {
            let bound = Duration::from_secs(1);
            let waited = self.done.1.wait_timeout(lock, bound);
            lock = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Looks again while jobs run.
    pub fn look(self: &Arc<Self>) {
        if let Some((_, wanted)) = self.room().filter(|(free, wanted)| free < wanted) {
            self.begin(wanted);
        }
    }

    /// Bytes that are free and bytes that should be.
    fn room(&self) -> Option<(u64, u64)> {
        let usage = self.cache.store().usage();
        let usage =
            usage.inspect_err(|error| tracing::warn!("failed to measure the store: {error}"));
        usage.ok().map(|usage| (usage.free, (usage.total as f64 * self.part) as u64))
    }

    fn begin(self: &Arc<Self>, wanted: u64) {
        let last = *self.done.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < PAUSE)
            || self.pruning.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let space = self.clone();
        let thread = std::thread::Builder::new().name("prune".into());
        let begun = thread.spawn(move || {
            space.prune(wanted);
            space.end();
        });
        if let Err(error) = begun {
            tracing::error!("failed to make room: {error}");
            self.end();
        }
    }

    fn prune(&self, wanted: u64) {
        let limits = GcLimits { min_free: Some(wanted), ..GcLimits::default() };
        match self.cache.gc(&limits, false) {
            Ok(report) => {
                add(&self.metrics.prunes, 1);
                add(&self.metrics.pruned, report.deleted.len() as u64);
                tracing::info!("made room: {} results have gone", report.deleted.len());
            }
            Err(error) => tracing::warn!("failed to make room: {error}"),
        }
    }

    fn end(&self) {
        let mut lock = self.done.0.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = Some(Instant::now());
        self.pruning.store(false, Ordering::SeqCst);
        drop(lock);
        self.done.1.notify_all();
    }
}
