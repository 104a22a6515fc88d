//! Destroys what was deleted, in the background: a build never waits for it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use obuilder_core::error::StoreError;

use crate::layout::Pool;
use crate::names::INHERITED;

/// The thread that destroys, started when there is something to destroy.
#[derive(Debug)]
pub(crate) struct Trash {
    pool: Arc<Pool>,
    worker: Mutex<Option<Worker>>,
    patience: Duration,
}

#[derive(Debug)]
struct Worker {
    rubbish: Sender<String>,
    ended: Receiver<()>,
}

impl Trash {
    pub(crate) fn new(pool: Arc<Pool>, patience: Duration) -> Self {
        Self { pool, worker: Mutex::default(), patience }
    }

    /// Has the dataset at `path` below the pool, which nothing leads to any more, destroyed now or a little later.
    pub(crate) fn throw(&self, path: String) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = worker.get_or_insert_with(|| start(self.pool.clone())).rubbish.clone();
        drop(worker);
        if let Err(unsent) = sender.send(path) {
            let mut stuck = Vec::new();
            work(&self.pool, unsent.0, &mut stuck);
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        let worker = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Worker { rubbish, ended }) = worker else { return };
        drop(rubbish);
        if ended.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            tracing::info!(
                "deleted results are still being destroyed; the next start goes on with it"
            );
        }
    }
}

fn start(pool: Arc<Pool>) -> Worker {
    let (rubbish, received) = channel::<String>();
    let (alive, ended) = channel();
    let run = move || {
        let mut stuck = Vec::new();
        for one in received {
            work(&pool, one, &mut stuck);
        }
        // What kept them may have ended meanwhile.
        stuck.retain(|path| !has_gone(&pool, path));
        drop(alive);
    };
    // Without a thread the channel has no receiver, and `throw` destroys by itself.
    if let Err(error) = thread::Builder::new().name("trash".to_owned()).spawn(run) {
        tracing::warn!(%error, "failed to start a thread for deleting");
    }
    Worker { rubbish, ended }
}

/// Destroys one thing; after that, what was `stuck` may go too.
fn work(pool: &Pool, path: String, stuck: &mut Vec<String>) {
    if !has_gone(pool, &path) {
        stuck.push(path);
        return;
    }
    let mut freed = true;
    while std::mem::take(&mut freed) {
        stuck.retain(|path| {
            let gone = has_gone(pool, path);
            freed |= gone;
            !gone
        });
    }
}

/// Says whether it has gone.
fn has_gone(pool: &Pool, path: &str) -> bool {
    match destroy(pool, path) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, path, "not destroyed yet");
            false
        }
    }
}

/// Destroys what is at `path` below the pool, which nobody finds any more.
pub(crate) fn destroy(pool: &Pool, path: &str) -> Result<(), StoreError> {
    pool.hide(path, true).and_then(|()| pool.remove_made(path))?;
    match pool.destroy(path) {
        // A version of a cache that the next one is a clone of.
        Err(error) => {
            if promote_clones(pool, path)? {
                pool.destroy(path)
            } else {
                Err(error)
            }
        }
        done => done,
    }
}

/// Has the caches that are clones of what lies at `path` take over what they share with it. Says whether there were any.
fn promote_clones(pool: &Pool, path: &str) -> Result<bool, StoreError> {
    let caches = pool.dataset("cache/");
    let mut any = false;
    for (snapshot, clones) in pool.clones(&pool.dataset(path))? {
        let Some(heir) = clones.iter().find(|clone| clone.starts_with(&caches)) else { continue };
        // The heir has a snapshot of this name already.
        let (dataset, _) = snapshot.split_once('@').unwrap_or((&snapshot, ""));
        let old = format!("{INHERITED}{}", pool.unique());
        let aside = format!("{dataset}@{old}");
        pool.zfs.act(&format!("rename `{snapshot}`"), &["rename", &snapshot, &aside])?;
        pool.zfs.act(&format!("promote `{heir}`"), &["promote", heir])?;
        drop_snapshot(pool, &format!("{heir}@{old}"));
        any = true;
    }
    Ok(any)
}

/// Has a snapshot destroyed at once, or when the last lease that is a clone of it has gone.
pub(crate) fn drop_snapshot(pool: &Pool, snapshot: &str) {
    let action = format!("destroy `{snapshot}`");
    if let Err(error) = pool.zfs.act(&action, &["destroy", "-d", snapshot]) {
        tracing::warn!(error = &error as &dyn std::error::Error, "failed to delete");
    }
}
