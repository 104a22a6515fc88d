//! Looks for what does not belong into a store.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;
use obuilder_core::finding::Finding;
use rustix::fs::FlockOperation;

use crate::check_warm;
use crate::layout::failed;
use crate::lock::{Exclusive, Locked};
use crate::store::{Inner, ids_in};
use crate::sweep::throw_away_dead;

/// See [`obuilder_core::Store::check`].
pub(crate) fn check(store: &Inner, repair: bool, deep: bool) -> Result<Vec<Finding>, StoreError> {
    let mut found = Vec::new();
    let layout = &store.layout;
    let path = layout.lock();
    {
        // Nobody makes a private directory meanwhile, which would look like a dead one's.
        let _no_begin = Locked::file(&path, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", &path, e))?;
        for dir in [layout.tmp(), layout.cache_tmp()] {
            leftovers(store, &dir, repair, &mut found)?;
        }
    }
    for dir in [layout.results(), layout.all_failed()] {
        for entry in paths_in(&dir)? {
            result(store, &entry, repair, &mut found);
        }
    }
    for path in paths_in(&layout.caches())? {
        if !is_dir(&path) {
            let what = format!("`{}` is no directory, as a cache is", path.display());
            let remove = || fs::remove_file(&path);
            found.push(Finding::new(None, what, "remove it", repair.then_some(remove)));
        }
    }
    check_warm::check(store, repair, deep, &mut found)?;
    if deep {
        found.extend(shared_outside(store)?);
    }
    Ok(found)
}

/// Directories whose makers are dead.
fn leftovers(
    store: &Inner,
    dir: &Path,
    repair: bool,
    found: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    for path in paths_in(dir)? {
        let held = is_dir(&path) && !matches!(Locked::exclusive(&path), Ok(Exclusive::Locked(_)));
        if !held {
            let what = format!("`{}` was left by a process that was killed", path.display());
            let sweep = || match is_dir(&path) {
                true => throw_away_dead(store, &path).map(drop),
                false => fs::remove_file(&path).map_err(|e| failed("remove", &path, e)),
            };
            found.push(Finding::new(None, what, "remove it", repair.then_some(sweep)));
        }
    }
    Ok(())
}

/// A result is named by an id and has a tree.
fn result(store: &Inner, path: &Path, repair: bool, found: &mut Vec<Finding>) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(id) = ResultId::parse(name) else {
        let what = format!("`{}` is no result: its name is no id", path.display());
        let why = "whose it is cannot be known; remove it by hand if it is nobody's";
        return found.push(Finding::lasting(None, what, why));
    };
    if !is_dir(&path.join("rootfs")) {
        let throw = || throw_away_dead(store, path).map(drop);
        let what = "it has no tree";
        found.push(Finding::new(Some(&id), what, "remove it", repair.then_some(throw)));
    }
}

/// Files of results with more names than all results together have: something outside could change them.
fn shared_outside(store: &Inner) -> Result<Vec<Finding>, StoreError> {
    let mut seen: HashMap<(u64, u64), (u64, u64, ResultId)> = HashMap::new();
    let results = store.layout.results();
    for id in ids_in(&results)? {
        let path = results.join(id.as_str());
        if let Some(pin) = store.pinned(&id, path)? {
            let note = |_, meta: &Metadata| {
                let entry = (meta.nlink(), 0, id.clone());
                seen.entry((meta.dev(), meta.ino())).or_insert(entry).1 += 1;
            };
            walk(pin.rootfs(), note).map_err(|(path, e)| failed("read", &path, e))?;
        }
    }
    let outside = |(links, names, id): (u64, u64, ResultId)| {
        let what = format!("a file of it has {links} names, of which only {names} are in results");
        let why = "what else has the file is not known; delete the result if it is not trusted";
        (links > names).then(|| Finding::lasting(Some(&id), what, why))
    };
    Ok(seen.into_values().filter_map(outside).collect())
}

/// Shows `note` every file below `top` that has several names.
pub(crate) fn walk(
    top: PathBuf,
    mut note: impl FnMut(PathBuf, &Metadata),
) -> Result<(), (PathBuf, io::Error)> {
    let mut dirs = vec![top];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| (dir.clone(), e))?;
        for entry in entries {
            let entry = entry.map_err(|e| (dir.clone(), e))?;
            let meta = entry.metadata().map_err(|e| (entry.path(), e))?;
            if meta.is_dir() {
                dirs.push(entry.path());
            } else if meta.nlink() > 1 {
                note(entry.path(), &meta);
            }
        }
    }
    Ok(())
}

fn paths_in(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(|e| failed("list", dir, e))?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(|e| failed("list", dir, e))
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}
