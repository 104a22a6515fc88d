//! Removes what killed processes left, and compares the store with its index.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use obuilder_core::ResultId;
use obuilder_core::contracts::Reconciled;
use obuilder_core::error::StoreError;

use crate::exchange;
use crate::layout::{Kind, Pool, SNAPSHOT, failed};
use crate::lock::Locked;
use crate::names;
use crate::store::{Inner, kept_in};
use crate::trash;

/// See [`obuilder_core::Store::reconcile`]. One look at the pool is all it takes if there is nothing to sweep.
pub(crate) fn reconcile(store: &Inner, known: &[ResultId]) -> Result<Reconciled, StoreError> {
    let pool = &store.pool;
    // Until it is known what is nobody's, no version of a cache is replaced: by that, a name of the dead may get another meaning.
    let lock = exchange::lock(pool)?;
    let wanted = ["-r", "-t", "filesystem,snapshot", "-o", "name,used,origin"];
    let rows = pool.zfs.table(&wanted, &[pool.name()])?;
    let dead = dead_in(pool, &rows, &["result-tmp", "cache-tmp", "trash"])?;
    let replaced = replaced_versions(store, &rows)?;
    drop(lock);
    let mut found = Reconciled::default();
    sweep_dead(store, &rows, dead, &mut found.swept);
    for name in replaced {
        trash::drop_snapshot(pool, &name);
    }
    let there: HashSet<_> = kept_in(&rows, &pool.dataset("result")).into_keys().collect();
    for name in names_in(&rows, &pool.dataset("result")) {
        if ResultId::parse(name).is_some_and(|id| !there.contains(&id)) {
            let path = format!("result/{name}");
            note(&path, sweep_half_made(store, &path), &mut found.swept);
        }
    }
    for kind in [Kind::Result, Kind::Failed] {
        sweep_mounts(store, kind)?;
    }
    mark_kept(store, &kept_in(&rows, &pool.dataset("failed")).into_keys().collect())?;
    sweep_locks(pool)?;
    let known: HashSet<_> = known.iter().cloned().collect();
    found.unknown = there.difference(&known).cloned().collect();
    found.bases = bases(pool, &rows);
    found.missing = known.difference(&there).cloned().collect();
    found.unknown.sort_unstable();
    found.missing.sort_unstable();
    Ok(found)
}

/// Names of the datasets right below `group`.
pub(crate) fn names_in<'a>(rows: &'a [Vec<String>], group: &str) -> Vec<&'a str> {
    let below = |row: &'a Vec<String>| row[0].strip_prefix(group)?.strip_prefix('/');
    rows.iter().filter_map(below).filter(|name| !name.contains(['/', '@'])).collect()
}

/// Snapshots that a cache has inherited from the version before, whose heir was killed before it could drop them.
pub(crate) fn replaced_versions(
    store: &Inner,
    rows: &[Vec<String>],
) -> Result<Vec<String>, StoreError> {
    let (pool, caches) = (&store.pool, store.pool.dataset("cache/"));
    let mut found = Vec::new();
    for row in rows.iter().filter(|row| row[0].starts_with(&caches)) {
        let Some((_, old)) = row[0].split_once('@').filter(|(_, name)| *name != SNAPSHOT) else {
            continue;
        };
        if let Some(heir) = names::maker_of_inherited(old)
            && pool.has_gone(heir)?
        {
            found.push(row[0].clone());
        }
    }
    Ok(found)
}

/// What in `groups` its maker has left, or could not destroy: paths below the pool. The caller has the lock of exchanges.
pub(crate) fn dead_in(
    pool: &Pool,
    rows: &[Vec<String>],
    groups: &[&str],
) -> Result<Vec<String>, StoreError> {
    let mut dead = Vec::new();
    for group in groups {
        for name in names_in(rows, &pool.dataset(group)) {
            if pool.is_dead(group, name)? {
                dead.push(format!("{group}/{name}"));
            }
        }
    }
    Ok(dead)
}

/// Has it destroyed; what others are clones of waits for them, and is not tried at each start.
fn sweep_dead(store: &Inner, rows: &[Vec<String>], dead: Vec<String>, swept: &mut Vec<String>) {
    let waiting = waiting(&clones(&store.pool, rows), &dead);
    for path in dead {
        if !path.starts_with("trash/") {
            swept.push(path.clone());
        }
        match waiting.contains(&path) {
            true => store.trash.keep(path),
            false => store.trash.throw(path),
        }
    }
}

/// What is a clone of what: the path below the pool of the group's member that holds the snapshot, and of the one that is the clone.
fn clones(pool: &Pool, rows: &[Vec<String>]) -> Vec<(String, String)> {
    let member = |dataset: &str| {
        let path = dataset.strip_prefix(pool.name())?.strip_prefix('/')?;
        Some(path.split('/').take(2).collect::<Vec<_>>().join("/"))
    };
    let clone = |row: &Vec<String>| {
        let (origin, _) = row[2].split_once('@')?;
        Some((member(origin)?, member(&row[0])?)).filter(|(origin, clone)| origin != clone)
    };
    rows.iter().filter_map(clone).collect()
}

/// Those of the `dead` that have clones that stay. A cache that is a clone takes over what it shares.
fn waiting(clones: &[(String, String)], dead: &[String]) -> HashSet<String> {
    let is_heir = |clone: &str| clone.starts_with("cache/");
    let has_heir = |path: &str| clones.iter().any(|(origin, one)| origin == path && is_heir(one));
    let mut goes: HashSet<&str> = dead.iter().map(String::as_str).collect();
    loop {
        let stays = |path: &&str| {
            clones.iter().any(|(origin, clone)| origin == path && !goes.contains(clone.as_str()))
        };
        let stay: Vec<_> =
            goes.iter().copied().filter(stays).filter(|path| !has_heir(path)).collect();
        if stay.is_empty() {
            break;
        }
        goes.retain(|path| !stay.contains(path));
    }
    dead.iter().filter(|path| !goes.contains(path.as_str())).cloned().collect()
}

/// Which result each result is a clone of.
fn bases(pool: &Pool, rows: &[Vec<String>]) -> HashMap<ResultId, ResultId> {
    let id = |path: &str| path.strip_prefix("result/").and_then(ResultId::parse);
    let clones = clones(pool, rows).into_iter();
    clones.filter_map(|(origin, clone)| Some((id(&clone)?, id(&origin)?))).collect()
}

/// An OBuilder that was killed has left a result without its snapshot; one that runs has its log open, so that it is busy. Ours
/// are made elsewhere. Says whether it was still there.
pub(crate) fn sweep_half_made(store: &Inner, path: &str) -> Result<bool, StoreError> {
    let _lock = store.half_made_lock()?;
    // Another process may have removed it, and made the result, since we looked.
    let (pool, dataset) = (&store.pool, store.pool.dataset(path));
    if pool.zfs.exists(&format!("{dataset}@{SNAPSHOT}"))? || !pool.zfs.exists(&dataset)? {
        return Ok(false);
    }
    pool.hide(path, false)?;
    store.throw_away(path).map(|()| true)
}

/// Unmounts results that a killed process had pinned.
fn sweep_mounts(store: &Inner, kind: Kind) -> Result<(), StoreError> {
    let dir = store.pool.dir(kind.group());
    let ids: Vec<_> = entries(&dir)?.iter().filter_map(|name| ResultId::parse(name)).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let _lock = store.mounts_lock()?;
    for id in ids {
        let path = store.pool.pin(kind, &id);
        let alone = Locked::try_alone(&path).map_err(|e| failed("lock", &path, e))?;
        if let Some(alone) = alone {
            store.hide_kept(kind, &id)?;
            alone.remove().map_err(|e| failed("remove", &path, e))?;
        }
    }
    Ok(())
}

/// A kill may have come between a kept tree and its mark.
fn mark_kept(store: &Inner, there: &HashSet<ResultId>) -> Result<(), StoreError> {
    let marks = store.pool.locks().join("kept");
    let marked: HashSet<_> =
        entries(&marks)?.iter().filter_map(|name| ResultId::parse(name)).collect();
    there.difference(&marked).try_for_each(|id| store.mark_kept(id))
}

/// Locks of openings that have ended.
fn sweep_locks(pool: &Pool) -> Result<(), StoreError> {
    let dir = pool.locks().join("alive");
    for name in entries(&dir)? {
        let path = dir.join(name);
        let gone = Locked::try_alone(&path).and_then(|alone| alone.map_or(Ok(()), Locked::remove));
        gone.map_err(|e| failed("remove", &path, e))?;
    }
    Ok(())
}

pub(crate) fn entries(dir: &Path) -> Result<Vec<String>, StoreError> {
    let names = fs::read_dir(dir).and_then(|entries| {
        let name =
            |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect::<io::Result<Vec<_>>>()
    });
    names.map_err(|e| failed("list", dir, e))
}

/// What cannot be swept only takes up room; it must not keep the store from opening.
fn note(path: &str, done: Result<bool, StoreError>, swept: &mut Vec<String>) {
    match done {
        Ok(true) => swept.push(path.to_owned()),
        Ok(false) => {}
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "failed to sweep what a killed process left"
        ),
    }
}
