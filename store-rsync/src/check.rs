//! Looks for what does not belong into a store.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;
use obuilder_core::finding::Finding;
use rustix::fs::FlockOperation;

use crate::check_warm;
use crate::layout::failed;
use crate::lock::{Exclusive, Locked};
use crate::store::{Inner, ids_in};
use crate::sweep::throw_away_dead;

/// How often to look again at files that seem to have names outside the store.
const ROUNDS: usize = 5;

/// How long to leave somebody who is removing what was looked at.
const MOMENT: Duration = Duration::from_millis(100);

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

/// A file of a result that has several names.
struct Linked {
    id: ResultId,
    path: PathBuf,
    links: u64,
    /// How many of the names were found.
    names: u64,
}

type Inode = (u64, u64);

/// Files of results with more names than all results together have: something outside could change them.
fn shared_outside(store: &Inner) -> Result<Vec<Finding>, StoreError> {
    let mut seen: HashMap<Inode, Linked> = HashMap::new();
    let results = store.layout.results();
    for id in ids_in(&results)? {
        let path = results.join(id.as_str());
        if let Some(pin) = store.pinned(&id, path)? {
            let note = |path, meta: &Metadata| {
                let entry = Linked { id: id.clone(), path, links: meta.nlink(), names: 0 };
                seen.entry((meta.dev(), meta.ino())).or_insert(entry).names += 1;
            };
            walk(pin.rootfs(), note).map_err(|(path, e)| failed("read", &path, e))?;
        }
    }
    seen.retain(|_, file| file.links > file.names);
    leave_out_unfinished(store, &mut seen)?;
    let outside = |Linked { id, links, names, .. }: Linked| {
        let what = format!("a file of it has {links} names, of which only {names} are in results");
        let why = "what else has the file is not known; delete the result if it is not trusted";
        Finding::lasting(Some(&id), what, why)
    };
    Ok(seen.into_values().map(outside).collect())
}

/// Results that are being made or removed have files of others, too. They come and go while they are looked at, so only what
/// stays is told.
fn leave_out_unfinished(
    store: &Inner,
    suspects: &mut HashMap<Inode, Linked>,
) -> Result<(), StoreError> {
    for _ in 0..ROUNDS {
        if suspects.is_empty() {
            return Ok(());
        }
        let mut unfinished: HashMap<Inode, u64> = HashMap::new();
        let note = |_, meta: &Metadata| {
            *unfinished.entry((meta.dev(), meta.ino())).or_default() += 1;
        };
        let whole = walk(store.layout.tmp(), note).is_ok();
        suspects.retain(|inode, file| {
            let Ok(meta) = fs::symlink_metadata(&file.path) else { return false };
            file.links = meta.nlink();
            let names = file.names + unfinished.get(inode).copied().unwrap_or(0);
            (meta.dev(), meta.ino()) == *inode && file.links > names
        });
        if !whole {
            std::thread::sleep(MOMENT);
        }
    }
    Ok(())
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
