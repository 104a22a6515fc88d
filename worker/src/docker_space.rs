//! Makes room where Docker keeps its images, as the original does, but with no other jobs stopped than Docker's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant};

use obuilder_core::Cancel;

use crate::job_log::JobLog;
use crate::metrics::Metrics;
use crate::process::Program;
use crate::within::within;

/// Where Docker keeps its images on Linux.
pub const DOCKER_ROOT: &str = "/var/lib/docker";
/// How soon room is made again when pruning has not made enough.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// How soon to look again whether other jobs have ended.
const RETRY: Duration = Duration::from_millis(100);
/// Longest time for one of Docker's commands.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// Keeps part of the volume with Docker's images free.
pub struct DockerSpace {
    program: PathBuf,
    root: PathBuf,
    /// The percentage that is to be free.
    percent: f64,
    metrics: Arc<Metrics>,
    /// Held by jobs that use Docker: pruning would take from them what they have just built.
    used: RwLock<()>,
    /// When room was last made. Whoever has it decides; whoever comes later waits here.
    last: Mutex<Option<Instant>>,
}

impl DockerSpace {
    /// Keeps `percent` of the volume of `root` free by the command `program`.
    pub fn new(program: PathBuf, root: &Path, percent: f64, metrics: Arc<Metrics>) -> Self {
        let (used, last) = (RwLock::default(), Mutex::default());
        Self { program, root: root.to_owned(), percent, metrics, used, last }
    }

    /// Makes room if there is too little, once the jobs that use Docker have ended; while what it gives lives, nobody makes room.
    /// `None` when it was cancelled.
    pub fn place(&self, log: &JobLog, cancel: &Cancel) -> Option<RwLockReadGuard<'_, ()>> {
        let mut last = acquire(cancel, || self.last.try_lock())?;
        if self.scarce() && last.is_none_or(|last| last.elapsed() >= PAUSE) {
            log.write(b"Waiting until there is room for Docker's images\n");
            let _alone = acquire(cancel, || self.used.try_write())?;
            self.prune(cancel);
            if cancel.is_cancelled() {
                return None;
            }
            // With enough room the next shortage need not wait.
            *last = self.scarce().then(Instant::now);
        }
        Some(self.used.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn scarce(&self) -> bool {
        match rustix::fs::statvfs(&self.root) {
            Ok(volume) => {
                let free = volume.f_bavail as f64 * 100.0 / volume.f_blocks.max(1) as f64;
                free < self.percent
            }
            Err(error) => {
                let root = self.root.display();
                tracing::warn!("--prune-threshold: failed to measure `{root}`: {error}");
                false
            }
        }
    }

    fn prune(&self, cancel: &Cancel) {
        tracing::info!("pruning Docker's images");
        let began = Instant::now();
        for what in ["system", "builder"] {
            let mut command = Command::new(&self.program);
            command.args([what, "prune", "-af"]);
            let said = JobLog::new(&std::env::temp_dir(), 1 << 20);
            let program = Program { label: "docker-prune", command, stdin: b"" };
            let (done, _) = within(LONGEST, cancel, |cancel| program.run(&said, cancel));
            if let Err(error) = done {
                tracing::warn!("failed to prune Docker's images: {error}");
                return;
            }
        }
        self.metrics.pruned_docker(began.elapsed());
    }
}

/// Waits for a lock; `None` when that was cancelled.
pub(crate) fn acquire<T>(
    cancel: &Cancel,
    attempt: impl Fn() -> Result<T, TryLockError<T>>,
) -> Option<T> {
    loop {
        match attempt() {
            Ok(lock) => return Some(lock),
            Err(TryLockError::Poisoned(lock)) => return Some(lock.into_inner()),
            Err(TryLockError::WouldBlock) if cancel.wait_timeout(RETRY) => return None,
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A `docker` that writes down what it is asked for.
    fn docker(dir: &Path) -> PathBuf {
        let path = dir.join("docker");
        let asked = dir.join("asked");
        let text = format!("#!/bin/sh\necho \"$@\" >>{}\n", asked.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn space(dir: &Path, percent: f64) -> DockerSpace {
        DockerSpace::new(docker(dir), dir, percent, Arc::default())
    }

    fn asked(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("asked")).unwrap_or_default()
    }

    #[test]
    fn images_go_when_there_is_too_little_room_and_not_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (log, cancel) = (JobLog::new(dir.path(), 1000), Cancel::new());
        assert!(space(dir.path(), 0.0).place(&log, &cancel).is_some());
        assert_eq!(asked(dir.path()), "");
        let space = space(dir.path(), 101.0);
        for _ in 0..2 {
            assert!(space.place(&log, &cancel).is_some());
            assert_eq!(asked(dir.path()), "system prune -af\nbuilder prune -af\n");
        }
        let text = space.metrics.text();
        assert!(text.contains("ocluster_worker_docker_prune_time_seconds_count 1\n"), "{text}");
    }

    #[test]
    fn nothing_goes_while_a_job_uses_docker_and_who_waits_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let (log, cancel) = (JobLog::new(dir.path(), 1000), Cancel::new());
        let space = space(dir.path(), 101.0);
        *space.last.lock().unwrap() = Some(Instant::now());
        let running = space.place(&log, &cancel).unwrap();
        *space.last.lock().unwrap() = None;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| space.place(&log, &cancel).is_none());
            assert_eq!(asked(dir.path()), "");
            cancel.cancel();
            assert!(waiting.join().unwrap());
        });
        drop(running);
        assert!(space.place(&log, &Cancel::new()).is_some());
        assert_eq!(asked(dir.path()), "system prune -af\nbuilder prune -af\n");
    }
}
