//! What a worker counts, under the original's names and some of its own, in Prometheus's text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counts. All may be changed from any thread.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Jobs taken.
    pub accepted: AtomicU64,
    /// Jobs under way.
    pub running: AtomicU64,
    /// Jobs that this worker does at once.
    pub capacity: AtomicU64,
    /// Times the scheduler was lost and looked for again.
    pub reconnects: AtomicU64,
    /// Whether a scheduler has registered this worker: 1 or 0.
    pub registered: AtomicU64,
    /// Jobs stopped at their time limit.
    pub timed_out: AtomicU64,
    /// Steps taken from the cache.
    pub cache_hits: AtomicU64,
    /// Steps built.
    pub cache_misses: AtomicU64,
    /// Steps whose command failed.
    pub failed_steps: AtomicU64,
    /// Steps that were killed, because nobody wanted them any more or they took too long.
    pub killed_steps: AtomicU64,
    /// Steps that can run at once.
    pub slots: AtomicU64,
    /// Bytes of logs written.
    pub log_bytes: AtomicU64,
    /// Number of prunings.
    pub prunes: AtomicU64,
    /// Results that pruning has deleted.
    pub pruned: AtomicU64,
    /// Whether the last health check failed: 1 or 0.
    pub unhealthy: AtomicU64,
    /// Milliseconds that the last health check took.
    pub healthcheck_ms: AtomicU64,
    /// How long jobs took, by how they ended.
    times: Mutex<BTreeMap<&'static str, (Duration, u64)>>,
    /// How long images took to push.
    pushes: Mutex<(Duration, u64)>,
    /// How long prunings of Docker took.
    docker_prunes: Mutex<(Duration, u64)>,
    /// Counts the trees that the store keeps warm.
    warm_trees: OnceLock<Measure<u64>>,
    /// Measures what of the store's volume is free, in percent.
    space_free: OnceLock<Measure<Option<f64>>>,
}

/// Measures something whenever it is asked.
struct Measure<T>(Box<dyn Fn() -> T + Send + Sync>);

impl<T> std::fmt::Debug for Measure<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Measure")
    }
}

/// Adds to a count.
pub fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

/// Sets a count.
pub fn set(count: &AtomicU64, n: u64) {
    count.store(n, Ordering::Relaxed);
}

impl Metrics {
    /// A job has ended in the way that `result` names.
    pub fn ended(&self, result: &'static str, took: Duration) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let (sum, count) = times.entry(result).or_default();
        *sum += took;
        *count += 1;
    }

    /// An image was pushed.
    pub fn pushed(&self, took: Duration) {
        let mut pushes = self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
        pushes.0 += took;
        pushes.1 += 1;
    }

    /// Docker was pruned.
    pub fn pruned_docker(&self, took: Duration) {
        let mut prunes = self.docker_prunes.lock().unwrap_or_else(PoisonError::into_inner);
        prunes.0 += took;
        prunes.1 += 1;
    }

    /// Has the percentage of the store's volume that is free measured by `measure`, whenever somebody looks. The first such call
    /// counts; without any there is no store.
    pub fn measure_space(&self, measure: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        // The first stays.
        let _ = self.space_free.set(Measure(Box::new(measure)));
    }

    /// Has the trees that the store keeps warm counted by `count`, whenever somebody looks. The first such call counts.
    pub fn count_warm_trees(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        // The first stays.
        let _ = self.warm_trees.set(Measure(Box::new(count)));
    }

    /// All of them.
    pub fn text(&self) -> String {
        let mut text = Text::default();
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        text.one(
            "ocluster_worker_jobs_accepted_total",
            "counter",
            "Number of jobs accepted in total",
            get(&self.accepted),
        );
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        text.head("ocluster_worker_job_time_seconds", "summary", "Time jobs ran for");
        for (result, (sum, count)) in &*times {
            let label = format!("{{result=\"{result}\"}}");
            text.summary("ocluster_worker_job_time_seconds", &label, *sum, *count);
        }
        let (sum, count) = *self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
        text.head(
            "ocluster_worker_docker_push_time_seconds",
            "summary",
            "Time uploading to Docker Hub",
        );
        text.summary("ocluster_worker_docker_push_time_seconds", "", sum, count);
        let (sum, count) = *self.docker_prunes.lock().unwrap_or_else(PoisonError::into_inner);
        text.head(
            "ocluster_worker_docker_prune_time_seconds",
            "summary",
            "Time spent pruning Docker cache",
        );
        text.summary("ocluster_worker_docker_prune_time_seconds", "", sum, count);
        text.one(
            "ocluster_worker_running_jobs",
            "gauge",
            "Number of jobs currently running",
            get(&self.running),
        );
        let took = get(&self.healthcheck_ms) / 1000.0;
        text.one(
            "ocluster_worker_healthcheck_time_seconds",
            "gauge",
            "Time to perform last healthcheck",
            took,
        );
        text.one(
            "ocluster_worker_unhealthy",
            "gauge",
            "Number of unhealthy workers",
            get(&self.unhealthy),
        );
        text.one(
            "ocluster_worker_cache_hits",
            "gauge",
            "Number of cache hits",
            get(&self.cache_hits),
        );
        text.one(
            "ocluster_worker_cache_misses",
            "gauge",
            "Number of cache misses",
            get(&self.cache_misses),
        );
        if let Some(percent) = self.space_free.get().and_then(|measure| (measure.0)()) {
            text.one(
                "ocluster_worker_obuilder_space_free",
                "gauge",
                "Percentage of the store's volume that is free",
                percent,
            );
        }
        text.one("obuild_worker_capacity", "gauge", "Jobs done at once", get(&self.capacity));
        text.one(
            "obuild_worker_registered",
            "gauge",
            "Whether a scheduler knows this worker",
            get(&self.registered),
        );
        text.one(
            "obuild_worker_reconnects_total",
            "counter",
            "Times the scheduler was lost, or not found, and looked for again",
            get(&self.reconnects),
        );
        text.one(
            "obuild_worker_jobs_timed_out_total",
            "counter",
            "Jobs stopped at their time limit",
            get(&self.timed_out),
        );
        self.steps(&mut text);
        text.one(
            "obuild_worker_log_bytes_total",
            "counter",
            "Bytes of job logs",
            get(&self.log_bytes),
        );
        text.one("obuild_worker_prunes_total", "counter", "Times room was made", get(&self.prunes));
        text.one(
            "obuild_worker_pruned_results_total",
            "counter",
            "Results deleted to make room",
            get(&self.pruned),
        );
        text.0
    }

    fn steps(&self, text: &mut Text) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let name = "obuild_worker_steps_total";
        text.head(name, "counter", "Steps of builds, by how they ended");
        for (end, count) in [
            ("cached", &self.cache_hits),
            ("saved", &self.cache_misses),
            ("failed", &self.failed_steps),
            ("killed", &self.killed_steps),
        ] {
            // Writing to a string does not fail.
            let _ = writeln!(text.0, "{name}{{end=\"{end}\"}} {}", get(count));
        }
        let killed = get(&self.killed_steps);
        text.one("obuild_worker_kills_total", "counter", "Steps that were killed", killed);
        text.one("obuild_worker_slots", "gauge", "Steps that can run at once", get(&self.slots));
        let warm = self.warm_trees.get().map_or(0, |count| (count.0)()) as f64;
        text.one("obuild_worker_warm_trees", "gauge", "Trees kept for the next step", warm);
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn summary(&mut self, name: &str, label: &str, sum: Duration, count: u64) {
        let sum = sum.as_secs_f64();
        let _ = write!(self.0, "{name}_sum{label} {sum}\n{name}_count{label} {count}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_originals_names() {
        let metrics = Metrics::default();
        add(&metrics.accepted, 3);
        set(&metrics.running, 2);
        set(&metrics.slots, 2);
        metrics.count_warm_trees(|| 7);
        metrics.measure_space(|| Some(42.5));
        metrics.ended("ok", Duration::from_millis(1500));
        metrics.ended("ok", Duration::from_millis(500));
        let text = metrics.text();
        for line in [
            "# TYPE ocluster_worker_jobs_accepted_total counter",
            "ocluster_worker_jobs_accepted_total 3",
            "ocluster_worker_job_time_seconds_sum{result=\"ok\"} 2",
            "ocluster_worker_job_time_seconds_count{result=\"ok\"} 2",
            "ocluster_worker_running_jobs 2",
            "ocluster_worker_unhealthy 0",
            "obuild_worker_steps_total{end=\"killed\"} 0",
            "obuild_worker_slots 2",
            "obuild_worker_warm_trees 7",
            "ocluster_worker_obuilder_space_free 42.5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
