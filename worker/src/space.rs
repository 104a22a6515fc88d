//! Makes room in the store, and where layers of images are, before it is needed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use obuilder_core::Cancel;
use obuilder_core::cache::{GcLimits, ResultCache};
use obuilder_core::units;

use crate::metrics::{Metrics, add};

/// How soon room is made again.
const PAUSE: Duration = Duration::from_secs(60);
/// The same when there was too little to delete: what others have filled the volume with no pruning helps against.
const LONG_PAUSE: Duration = Duration::from_secs(15 * 60);
/// What was used within this time is kept: the jobs of now need it, and would only make it again.
const LATELY: Duration = Duration::from_secs(10 * 60);

/// Keeps part of the volumes of the store and of the layers of images free.
pub struct Space {
    cache: Arc<ResultCache>,
    layers: fetch_oci::Cache,
    metrics: Arc<Metrics>,
    /// The part that is to be free, from 0 to 1.
    part: f64,
    pruning: AtomicBool,
    /// When the last pruning ended, and how soon the next one may begin.
    done: (Mutex<Option<(Instant, Duration)>>, Condvar),
}

/// How much of a volume is free, and how much should be, in bytes.
#[derive(Debug, Clone, Copy)]
struct Room {
    free: u64,
    wanted: u64,
}

impl Room {
    fn scarce(&self) -> bool {
        self.free < self.wanted
    }
}

impl Space {
    /// Keeps `percent` of the volumes of `cache` and of `layers` free.
    pub fn new(
        cache: Arc<ResultCache>,
        layers: fetch_oci::Cache,
        percent: f64,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let part = (percent / 100.0).clamp(0.0, 1.0);
        let measured = cache.clone();
        metrics.measure_space(move || {
            let usage = measured.store().usage().ok()?;
            Some(usage.free as f64 * 100.0 / usage.total.max(1) as f64)
        });
        let (pruning, done) = (AtomicBool::new(false), (Mutex::default(), Condvar::new()));
        Arc::new(Self { cache, layers, metrics, part, pruning, done })
    }

    /// Has room made in the background when there is less than there should be, and waits for it only when there is less
    /// than half of that.
    pub fn before_a_job(self: &Arc<Self>, cancel: &Cancel) {
        let scarce = self.scarce();
        if !scarce.is_empty() {
            self.begin();
        }
        if scarce.iter().all(|room| room.free >= room.wanted / 2) {
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
        if !self.scarce().is_empty() {
            self.begin();
        }
    }

    /// Where there is too little.
    fn scarce(&self) -> Vec<Room> {
        let rooms = [self.room(), self.room_for_layers()];
        rooms.into_iter().flatten().filter(Room::scarce).collect()
    }

    /// What there is for results.
    fn room(&self) -> Option<Room> {
        let usage = self.cache.store().usage();
        let usage = usage
            .inspect_err(|error| tracing::warn!("failed to measure the store: {error}"))
            .ok()?;
        Some(Room { free: usage.free, wanted: self.part_of(usage.total) })
    }

    /// What there is for layers, if there are any.
    fn room_for_layers(&self) -> Option<Room> {
        let volume = rustix::fs::statvfs(self.layers.dir()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Some(Room { free: bytes(volume.f_bavail), wanted: self.part_of(bytes(volume.f_blocks)) })
    }

    fn part_of(&self, total: u64) -> u64 {
        (total as f64 * self.part) as u64
    }

    fn begin(self: &Arc<Self>) {
        let last = *self.done.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|(last, pause)| last.elapsed() < pause)
            || self.pruning.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let space = self.clone();
        let thread = std::thread::Builder::new().name("prune".into());
        let begun = thread.spawn(move || {
            let freed = space.prune();
            space.end(if !freed && !space.scarce().is_empty() { LONG_PAUSE } else { PAUSE });
        });
        if let Err(error) = begun {
            tracing::error!("failed to make room: {error}");
            self.end(PAUSE);
        }
    }

    /// Deletes layers that can be had again where these lie, and results, until there is room; neither caches nor what was used
    /// lately. Says whether anything has gone.
    fn prune(&self) -> bool {
        let mut gone = false;
        if self.room_for_layers().is_some_and(|room| room.scarce()) {
            match self.layers.prune(SystemTime::now() - LATELY) {
                Ok(0) => {}
                Ok(freed) => {
                    gone = true;
                    tracing::info!("made room: layers of images, {}", units::size(freed));
                }
                Err(error) => tracing::warn!("failed to delete layers of images: {error}"),
            }
        }
        let Some(room) = self.room().filter(Room::scarce) else { return gone };
        let limits =
            GcLimits { min_free: Some(room.wanted), spare: Some(LATELY), ..GcLimits::default() };
        match self.cache.gc(&limits, false) {
            Ok(report) => {
                gone |= !report.deleted.is_empty();
                add(&self.metrics.pruned, report.deleted.len() as u64);
                tracing::info!("made room: {} results have gone", report.deleted.len());
            }
            Err(error) => tracing::warn!("failed to make room: {error}"),
        }
        if let Some(room) = self.room().filter(Room::scarce) {
            tracing::warn!(
                "{} are free for results and {} are wanted, but what is left was used lately or is not the store's; \
                 free some space, or choose another --obuilder-prune-threshold",
                units::size(room.free),
                units::size(room.wanted)
            );
        }
        gone
    }

    fn end(&self, pause: Duration) {
        add(&self.metrics.prunes, 1);
        let mut lock = self.done.0.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = Some((Instant::now(), pause));
        self.pruning.store(false, Ordering::SeqCst);
        drop(lock);
        self.done.1.notify_all();
    }
}
