//! Openings of a store, each by a process that lives or has gone.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use obuilder_core::error::StoreError;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::layout::failed;
use crate::lock::Locked;
use crate::sweep::entries;

/// Longest wait for the last command of a process that was killed, and how soon to look again.
const LAST_COMMAND: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// The locks that openings hold, files named PID-RANDOM.
#[derive(Debug)]
pub(crate) struct Openings {
    dir: PathBuf,
    /// Those that have ended and have been waited for in vain.
    waited_for: Mutex<HashSet<String>>,
}

impl Openings {
    /// Those with locks in `dir`.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, waited_for: Mutex::default() }
    }

    /// The lock of one.
    pub(crate) fn lock(&self, opening: &str) -> PathBuf {
        self.dir.join(opening)
    }

    fn waited_for(&self) -> MutexGuard<'_, HashSet<String>> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `opening` has ended. A `zfs` that a killed process has started goes on with what it was told, and has its locks as
    /// long: that is waited for, within bounds and once, as whoever looks later would have to look again.
    pub(crate) fn has_gone(&self, opening: &str) -> Result<bool, StoreError> {
        let path = self.lock(opening);
        let held = || Locked::is_held(&path).map_err(|e| failed("look at", &path, e));
        let end = Instant::now() + LAST_COMMAND;
        while held()? {
            if is_running(opening) || self.waited_for().contains(opening) {
                return Ok(false);
            }
            if Instant::now() >= end {
                self.waited_for().insert(opening.to_owned());
            }
            std::thread::sleep(LOOK);
        }
        Ok(true)
    }

    /// Waits likewise for the commands of all that have ended.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        entries(&self.dir)?.iter().try_for_each(|opening| self.has_gone(opening).map(drop))
    }
}

/// Whether there is a process with the number that an opening's name begins with.
fn is_running(opening: &str) -> bool {
    let number = opening.split_once('-').and_then(|(pid, _)| pid.parse().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else { return true };
    !matches!(rustix::process::test_kill_process(pid), Err(Errno::SRCH))
}
