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
use crate::mount::CHILDREN;
use crate::names;
use crate::store::{Inner, kept_in};
use crate::trash;
use crate::tree::Children;

/// See [`obuilder_core::Store::reconcile`]. One look at the pool is all it takes if there is nothing to sweep.
pub(crate) fn reconcile(store: &Inner, known: &[ResultId]) -> Result<Reconciled, StoreError> {
    let pool = &store.pool;
    pool.openings.settle()?;
    // Until it is known what is nobody's, no version of a cache is replaced: by that, a name of the dead may get another meaning.
    let lock = exchange::lock(pool)?;
    let change = pool.known.change();
    let rows = pool.look_at_groups("name,origin")?;
    let dead = dead_in(pool, &rows, &["result-tmp", "cache-tmp", "trash"])?;
    let replaced = replaced_versions(store, &rows)?;
    drop(lock);
    let mut found = Reconciled::default();
    sweep_dead(store, &rows, dead, &mut found.swept);
    for name in replaced {
        trash::drop_snapshot(pool, &name);
    }
    let [there, kept] = [Kind::Result, Kind::Failed].map(|kind| {
        kept_in(&rows, &pool.dataset(kind.group())).into_keys().collect::<HashSet<_>>()
    });
    for path in left_mounted(pool, &rows)? {
        note(&path, pool.hide(&path, true).map(|()| false), &mut found.swept);
    }
    for id in names_in(&rows, &pool.dataset("result")).into_iter().filter_map(ResultId::parse) {
        if !there.contains(&id) && !store.is_claimed(&id)? {
            note(&Pool::of(Kind::Result, &id), sweep_half_made(store, &id), &mut found.swept);
        }
    }
    sweep_mounts(store, &rows, Kind::Result, &there)?;
    sweep_mounts(store, &rows, Kind::Failed, &kept)?;
    mark_kept(store, &kept)?;
    for path in dead_made(pool, &rows)? {
        let removed = pool.remove_made(&path).map(|()| false);
        note(&path, removed, &mut found.swept);
    }
    for dir in LOCK_DIRS {
        sweep_locks(&pool.locks().join(dir))?;
    }
    pool.known.take_over(change, children(pool, &rows));
    let known: HashSet<_> = known.iter().cloned().collect();
    found.unknown = there.difference(&known).cloned().collect();
    found.bases = bases(pool, &rows);
    found.missing = known.difference(&there).cloned().collect();
    found.unknown.sort_unstable();
    found.missing.sort_unstable();
    Ok(found)
}

/// Directories of locks that go with who holds them.
pub(crate) const LOCK_DIRS: [&str; 3] = ["alive", "pins", "making"];

/// What every result and kept tree has below it, by its path below the pool.
fn children(pool: &Pool, rows: &[Vec<String>]) -> HashMap<String, Children> {
    let mut children: HashMap<_, Children> = HashMap::new();
    for row in rows {
        let Some((dataset, SNAPSHOT)) = row[0].split_once('@') else { continue };
        let path = dataset.strip_prefix(pool.name()).and_then(|path| path.strip_prefix('/'));
        let names: Vec<_> = path.unwrap_or_default().split('/').collect();
        match names[..] {
            [group @ ("result" | "failed"), id] => {
                children.entry(format!("{group}/{id}")).or_default();
            }
            [group @ ("result" | "failed"), id, child] => {
                let number = CHILDREN.iter().position(|(name, _)| *name == child);
                children.entry(format!("{group}/{id}")).or_default().extend(number);
            }
            _ => {}
        }
    }
    // ZFS lists them by their names.
    children.values_mut().for_each(|numbers| numbers.sort_unstable());
    children
}

/// Plain files beside a tree that was being made, whose maker was killed after the tree had got its name: paths of what was made.
pub(crate) fn dead_made(pool: &Pool, rows: &[Vec<String>]) -> Result<Vec<String>, StoreError> {
    let made = names_in(rows, &pool.dataset("result-tmp"));
    let mut dead = Vec::new();
    for name in entries(&pool.locks().join("made"))? {
        if !made.contains(&name.as_str()) && pool.is_dead("result-tmp", &name)? {
            dead.push(format!("result-tmp/{name}"));
        }
    }
    Ok(dead)
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
            && pool.openings.has_gone(heir)?
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
pub(crate) type Clones = Vec<(String, String)>;

/// Of `rows` with a name and an origin.
pub(crate) fn clones(pool: &Pool, rows: &[Vec<String>]) -> Clones {
    let member = |dataset: &str| {
        let path = dataset.strip_prefix(pool.name())?.strip_prefix('/')?;
        Some(path.split('/').take(2).collect::<Vec<_>>().join("/"))
    };
    let clone = |row: &Vec<String>| {
        let (origin, _) = row[1].split_once('@')?;
        Some((member(origin)?, member(&row[0])?)).filter(|(origin, clone)| origin != clone)
    };
    rows.iter().filter_map(clone).collect()
}

/// Those of the `dead` that have clones that stay. A cache that is a clone takes over what it shares.
pub(crate) fn waiting(clones: &[(String, String)], dead: &[String]) -> HashSet<String> {
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

/// Whoever was killed has left a result without its snapshot. A maker of ours that lives has a claim; an OBuilder that runs has its log
/// open, so that it is busy. Says whether it was still there.
pub(crate) fn sweep_half_made(store: &Inner, id: &ResultId) -> Result<bool, StoreError> {
    let _place = store.place_lock(id)?;
    // Another process may have removed it, and made the result, since we looked.
    let (pool, path) = (&store.pool, Pool::of(Kind::Result, id));
    let dataset = pool.dataset(&path);
    let is_whole = || pool.zfs.exists(&format!("{dataset}@{SNAPSHOT}"));
    if store.is_claimed(id)? || is_whole()? || !pool.zfs.exists(&dataset)? {
        return Ok(false);
    }
    match store.claimed_dir(id)? {
        Some(dir) => pool.hide_in(&dir, &path, true)?,
        None => pool.hide(&path, false)?,
    }
    store.throw_away(&path)?;
    let claim = pool.claim(id);
    Locked::remove_if_free(&claim).map_err(|e| failed("remove", &claim, e))?;
    Ok(true)
}

/// Directories in which what was made in its place was mounted when its maker was killed: paths below the pool, where no datasets are.
fn left_mounted(pool: &Pool, rows: &[Vec<String>]) -> Result<Vec<String>, StoreError> {
    let made = names_in(rows, &pool.dataset("result-tmp"));
    let mut left = Vec::new();
    for name in entries(&pool.dir("result-tmp"))? {
        let ours = names::maker(&name).is_some() && !made.contains(&name.as_str());
        if ours && pool.is_dead("result-tmp", &name)? {
            left.push(format!("result-tmp/{name}"));
        }
    }
    Ok(left)
}

/// Unmounts what of one kind a killed process had pinned, of which these are `whole`. One that is not is an OBuilder's, which may be
/// working in it.
fn sweep_mounts(
    store: &Inner,
    rows: &[Vec<String>],
    kind: Kind,
    whole: &HashSet<ResultId>,
) -> Result<(), StoreError> {
    let dir = store.pool.dir(kind.group());
    let there = names_in(rows, &store.pool.dataset(kind.group()));
    let is_half_made = |id: &ResultId| there.contains(&id.as_str()) && !whole.contains(id);
    let ids = entries(&dir)?.iter().filter_map(|name| ResultId::parse(name)).collect::<Vec<_>>();
    let ids: Vec<_> = ids.into_iter().filter(|id| !is_half_made(id)).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let _lock = store.mounts_lock()?;
    for id in ids {
        let path = store.pool.pin(kind, &id);
        let alone = Locked::try_alone(&path).map_err(|e| failed("lock", &path, e))?;
        if let Some(alone) = alone {
            let hidden = store.pool.hide(&Pool::of(kind, &id), whole.contains(&id));
            note(&Pool::of(kind, &id), hidden.map(|()| false), &mut Vec::new());
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

/// Locks in `dir` of openings that have ended.
fn sweep_locks(dir: &Path) -> Result<(), StoreError> {
    for name in entries(dir)? {
        let path = dir.join(name);
        Locked::remove_if_free(&path).map_err(|e| failed("remove", &path, e))?;
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
