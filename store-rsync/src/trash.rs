//! Empties what was deleted, in the background.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use obuilder_core::fault;
use tree_copy::remove_tree;

use crate::lock::Locked;

/// How long to wait for the rest to be emptied, unless a store is given another time.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A directory that nothing leads to any more, with the lock that keeps sweepers of other processes away.
#[derive(Debug)]
pub(crate) struct Rubbish {
    pub(crate) path: PathBuf,
    pub(crate) lock: Locked,
}

/// The thread that empties, started when there is something to empty.
#[derive(Debug)]
pub(crate) struct Trash {
    worker: Mutex<Option<Worker>>,
    /// How long the end of a process waits for the rest; what is left then is swept by the next start.
    pub(crate) patience: Duration,
}

impl Default for Trash {
    fn default() -> Self {
        Self { worker: Mutex::default(), patience: LONGEST_WAIT }
    }
}

#[derive(Debug)]
struct Worker {
    rubbish: Sender<Rubbish>,
    ended: Receiver<()>,
}

impl Trash {
    /// Has `rubbish` removed, now or a little later.
    pub(crate) fn throw(&self, rubbish: Rubbish) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = worker.get_or_insert_with(start).rubbish.clone();
        drop(worker);
        if let Err(unsent) = sender.send(rubbish) {
            remove(&unsent.0);
        }
    }
}

impl Trash {
    /// Waits until all that was thrown has gone, but not for ever.
    pub(crate) fn wait_empty(&self) {
        self.wait(LONGEST_WAIT);
    }

    fn wait(&self, patience: Duration) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Worker { rubbish, ended }) = worker else { return };
        drop(rubbish);
        if ended.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::info!(
                "deleted results are still being removed; the next start goes on with it"
            );
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.wait(self.patience);
    }
}

fn start() -> Worker {
    let (rubbish, received) = channel::<Rubbish>();
    let (alive, ended) = channel();
    let run = move || {
        for one in received {
            remove(&one);
        }
        drop(alive);
    };
    // Without a thread the channel has no receiver, and `throw` removes by itself.
    if let Err(error) = thread::Builder::new().name("trash".to_owned()).spawn(run) {
        tracing::warn!(%error, "failed to start a thread for deleting");
    }
    Worker { rubbish, ended }
}

fn remove(rubbish: &Rubbish) {
    // Somebody may still be copying from it.
    if let Err(error) = rubbish.lock.wait_alone() {
        tracing::warn!(path = %rubbish.path.display(), %error, "failed to lock what is to be deleted");
    }
    fault::point("trash-emptying");
    if let Err(error) = remove_tree(&rubbish.path) {
        tracing::warn!(error = &error as &dyn std::error::Error, "failed to delete");
    }
    fault::point("trash-emptied");
}
