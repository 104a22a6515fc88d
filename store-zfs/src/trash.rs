//! Destroys what was deleted, in the background: a build never waits for it.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use obuilder_core::error::StoreError;

use crate::layout::Pool;
use crate::names::{INHERITED, maker};

/// The thread that destroys, started when there is something to destroy.
#[derive(Debug)]
pub(crate) struct Trash {
    pool: Arc<Pool>,
    worker: Mutex<Option<Worker>>,
    patience: Duration,
}

#[derive(Debug)]
struct Worker {
    rubbish: Sender<Rubbish>,
    ended: Receiver<()>,
}

/// Something to be destroyed.
#[derive(Debug)]
struct Rubbish {
    /// Below the pool.
    path: String,
    /// Until something else was destroyed, it is no use to try.
    waits: bool,
}

impl Trash {
    pub(crate) fn new(pool: Arc<Pool>, patience: Duration) -> Self {
        Self { pool, worker: Mutex::default(), patience }
    }

    /// Has the dataset at `path` below the pool, which nothing leads to any more, destroyed now or a little later.
    pub(crate) fn throw(&self, path: String) {
        self.send(Rubbish { path, waits: false });
    }

    /// Has it destroyed when something else was, which may have been a clone of it.
    pub(crate) fn keep(&self, path: String) {
        self.send(Rubbish { path, waits: true });
    }

    fn send(&self, rubbish: Rubbish) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = worker.get_or_insert_with(|| start(self.pool.clone())).rubbish.clone();
        drop(worker);
        if let Err(unsent) = sender.send(rubbish) {
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
    let (rubbish, received) = channel::<Rubbish>();
    let (alive, ended) = channel();
    let run = move || {
        let (mut stuck, mut tried) = (Vec::new(), false);
        for one in received {
            tried |= !one.waits;
            work(&pool, one, &mut stuck);
        }
        // What kept them may have ended meanwhile.
        if tried {
            try_again(&pool, &mut stuck);
        }
        drop(alive);
    };
    // Without a thread the channel has no receiver, and `throw` destroys by itself.
    if let Err(error) = thread::Builder::new().name("trash".to_owned()).spawn(run) {
        tracing::warn!(%error, "failed to start a thread for deleting");
    }
    Worker { rubbish, ended }
}

/// Destroys one thing; after that, what was `stuck` may go too.
fn work(pool: &Pool, one: Rubbish, stuck: &mut Vec<String>) {
    if one.waits || !has_gone(pool, &one.path) {
        stuck.push(one.path);
        return;
    }
    try_again(pool, stuck);
}

/// Destroys what is `stuck` no longer.
fn try_again(pool: &Pool, stuck: &mut Vec<String>) {
    let mut freed = true;
    while std::mem::take(&mut freed) && !stuck.is_empty() {
        let waiting = with_clones(pool);
        stuck.retain(|path| {
            let gone = !waiting.contains(&pool.dataset(path)) && has_gone(pool, path);
            freed |= gone;
            !gone
        });
    }
}

/// Datasets right in the trash that have clones, unless a cache is one, which takes over what it shares.
fn with_clones(pool: &Pool) -> HashSet<String> {
    let (trash, caches) = (pool.dataset("trash"), pool.dataset("cache/"));
    let cloned = pool.clones(&trash).unwrap_or_default();
    let waits = |clones: &[String]| !clones.iter().any(|clone| clone.starts_with(&caches));
    let member = |snapshot: &str| {
        let path = snapshot.strip_prefix(&trash)?.strip_prefix('/')?;
        Some(format!("{trash}/{}", path.split(['/', '@']).next()?))
    };
    cloned.iter().filter(|(_, clones)| waits(clones)).filter_map(|(name, _)| member(name)).collect()
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
    // What has no name of ours is an OBuilder's copy of a cache; one that is in use is not of a killed one.
    let ours = path.rsplit('/').next().is_some_and(|name| maker(name).is_some());
    pool.hide(path, ours).and_then(|()| pool.remove_made(path))?;
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

/// How often a snapshot is looked for that goes from version to version while caches are replaced.
const TRIES: u32 = 5;

/// Has a snapshot that a cache has inherited destroyed at once, or when the last lease that is a clone of it has gone.
pub(crate) fn drop_snapshot(pool: &Pool, snapshot: &str) {
    let mut snapshot = snapshot.to_owned();
    for _ in 1..TRIES {
        if pool.zfs.run(&["destroy", "-d", &snapshot]).is_ok() {
            return;
        }
        // Its cache may have been replaced since, and have taken it along to the trash or given it to its heir.
        match whereabouts(pool, &snapshot) {
            Ok(Some(there)) => snapshot = there,
            Ok(None) => return,
            Err(_) => break,
        }
    }
    let action = format!("destroy `{snapshot}`");
    if let Err(error) = pool.zfs.act(&action, &["destroy", "-d", &snapshot]) {
        tracing::warn!(error = &error as &dyn std::error::Error, "failed to delete");
    }
}

/// The name that an inherited snapshot has by now; what is after the `@` is never that of another.
fn whereabouts(pool: &Pool, snapshot: &str) -> Result<Option<String>, StoreError> {
    let own = snapshot.find('@').map_or("", |at| &snapshot[at..]);
    let groups = [pool.dataset("cache"), pool.dataset("trash")];
    let names = groups.each_ref().map(String::as_str);
    let rows = pool.zfs.table(&["-r", "-t", "snapshot", "-o", "name"], &names)?;
    Ok(rows.into_iter().map(|mut row| row.swap_remove(0)).find(|name| name.ends_with(own)))
}
