//! Removes what killed processes left, and compares the store with its index.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use obuilder_core::ResultId;
use obuilder_core::contracts::Reconciled;
use obuilder_core::error::StoreError;
use rustix::fs::FlockOperation;

use crate::layout::failed;
use crate::lock::{Exclusive, Locked};
use crate::store::{Inner, ids_in};
use crate::warm;

/// See [`obuilder_core::Store::reconcile`].
pub(crate) fn reconcile(store: &Inner, known: &[ResultId]) -> Result<Reconciled, StoreError> {
    let mut found = Reconciled::default();
    sweep_all(store, &mut found.swept)?;
    let there: HashSet<_> = ids_in(&store.layout.results())?.into_iter().collect();
    let known: HashSet<_> = known.iter().cloned().collect();
    found.unknown = there.difference(&known).cloned().collect();
    found.missing = known.difference(&there).cloned().collect();
    found.unknown.sort_unstable();
    found.missing.sort_unstable();
    Ok(found)
}

fn sweep_all(store: &Inner, swept: &mut Vec<String>) -> Result<(), StoreError> {
    let path = store.layout.lock();
    let _no_begin =
        Locked::file(&path, FlockOperation::LockExclusive).map_err(|e| failed("lock", &path, e))?;
    sweep(store, &store.layout.tmp(), swept)?;
    sweep(store, &store.layout.cache_tmp(), swept)?;
    match warm::sweep(store) {
        Ok(useless) => swept.extend(useless.iter().map(|path| path.display().to_string())),
        Err(error) => note(&store.layout.warm(), Err(error), swept),
    }
    for dir in [store.layout.results(), store.layout.all_failed()] {
        for id in ids_in(&dir)? {
            sweep_unless_whole(store, &dir.join(id.as_str()), swept);
        }
    }
    Ok(())
}

/// Sweeps everything in `dir` that nobody holds a lock on.
fn sweep(store: &Inner, dir: &Path, swept: &mut Vec<String>) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(|e| failed("list", dir, e))? {
        let entry = entry.map_err(|e| failed("list", dir, e))?;
        let path = entry.path();
        let done = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            throw_away_dead(store, &path)
        } else {
            fs::remove_file(&path).map(|()| true).map_err(|e| failed("sweep", &path, e))
        };
        note(&path, done, swept);
    }
    Ok(())
}

/// A result without a tree can only come of a damaged disk.
fn sweep_unless_whole(store: &Inner, path: &Path, swept: &mut Vec<String>) {
    let whole = fs::symlink_metadata(path.join("rootfs")).is_ok_and(|meta| meta.is_dir());
    if !whole {
        note(path, throw_away_dead(store, path), swept);
    }
}

/// Throws `path` away unless somebody holds a lock on it; says whether it did.
pub(crate) fn throw_away_dead(store: &Inner, path: &Path) -> Result<bool, StoreError> {
    match Locked::exclusive(path).map_err(|e| failed("lock", path, e))? {
        Exclusive::Held | Exclusive::Missing => Ok(false),
        Exclusive::Locked(lock) => store.throw_away(path, lock).map(|()| true),
    }
}

/// What cannot be swept only takes up room; it must not keep the store from opening.
fn note(path: &Path, done: Result<bool, StoreError>, swept: &mut Vec<String>) {
    match done {
        Ok(true) => swept.push(path.display().to_string()),
        Ok(false) => {}
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "failed to sweep what a killed process left"
        ),
    }
}
