//! Looks for what does not belong into a pool.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;
use obuilder_core::finding::Finding;

use crate::exchange;
use crate::layout::{Kind, Pool, SNAPSHOT, failed, is_ours};
use crate::lock::Locked;
use crate::mount::is_place;
use crate::names;
use crate::store::Inner;
use crate::sweep::{
    LOCK_DIRS, dead_in, dead_made, entries, names_in, replaced_versions, sweep_half_made,
};
use crate::trash;

/// What is in the pool, and what came of looking at it.
struct Check<'a> {
    store: &'a Arc<Inner>,
    repair: bool,
    /// The name of every dataset and snapshot.
    rows: Vec<Vec<String>>,
    found: Vec<Finding>,
}

/// See [`obuilder_core::Store::check`]. ZFS itself proves every byte: `zpool scrub`.
pub(crate) fn check(store: &Arc<Inner>, repair: bool) -> Result<Vec<Finding>, StoreError> {
    let pool = &store.pool;
    // See `sweep::reconcile`.
    pool.openings.settle()?;
    let lock = exchange::lock(pool)?;
    let rows = pool.look_at_groups("name")?;
    let dead = dead_in(pool, &rows, &["result-tmp", "cache-tmp"])?;
    drop(lock);
    let mut check = Check { store, repair, rows, found: Vec::new() };
    ["result-tmp", "cache-tmp", "trash"].into_iter().for_each(|group| check.foreign(group));
    // What lies in the trash is on its way out, and may be for long.
    check.left_by_the_dead(&dead);
    for kind in [Kind::Result, Kind::Failed] {
        check.kept(kind)?;
        check.mounts(kind)?;
    }
    check.caches();
    check.replaced_versions()?;
    check.marks()?;
    check.made()?;
    check.locks()?;
    Ok(check.found)
}

impl Check<'_> {
    fn add(
        &mut self,
        id: Option<&ResultId>,
        what: String,
        how: &str,
        repair: impl FnOnce() -> Result<(), StoreError>,
    ) {
        self.found.push(Finding::new(id, what, how, self.repair.then_some(repair)));
    }

    fn names(&self, group: &str) -> Vec<String> {
        let group = self.store.pool.dataset(group);
        names_in(&self.rows, &group).into_iter().map(str::to_owned).collect()
    }

    /// What is in our groups and has no name that we, or OBuilder, would give it stays there.
    fn foreign(&mut self, group: &str) {
        for name in self.names(group).iter().filter(|name| !is_ours(group, name)) {
            let what = format!(
                "`{}/{name}` is not ours: it has not the name of what we make there",
                self.store.pool.dataset(group)
            );
            let why = "whose it is cannot be known; destroy it by hand if it is nobody's";
            self.found.push(Finding::lasting(None, what, why));
        }
    }

    fn has_snapshot(&self, path: &str) -> bool {
        let name = format!("{}@{SNAPSHOT}", self.store.pool.dataset(path));
        self.rows.iter().any(|row| row[0] == name)
    }

    fn left_by_the_dead(&mut self, dead: &[String]) {
        let pool = &self.store.pool;
        for path in dead {
            let what = format!("`{}` was left by a process that was killed", pool.dataset(path));
            self.add(None, what, "destroy it", || trash::destroy(pool, path));
        }
    }

    /// What is kept for an id has a snapshot and a tree.
    fn kept(&mut self, kind: Kind) -> Result<(), StoreError> {
        let store = self.store;
        for name in self.names(kind.group()) {
            let path = format!("{}/{name}", kind.group());
            let dataset = store.pool.dataset(&path);
            let Some(id) = ResultId::parse(&name) else {
                let what = format!("`{dataset}` is no result: its name is no id");
                let why = "whose it is cannot be known; destroy it by hand if it is nobody's";
                self.found.push(Finding::lasting(None, what, why));
                continue;
            };
            if !self.has_snapshot(&path) {
                if store.is_claimed(&id)? {
                    continue;
                }
                let what =
                    format!("`{dataset}` has no snapshot `@{SNAPSHOT}`: it was never finished");
                let throw = || sweep_half_made(store, &id).map(drop);
                self.add(Some(&id), what, "destroy it", throw);
                continue;
            }
            let Some(pin) = store.pin(kind, &id)? else { continue };
            let whole = is_place(&pin.dir(), "rootfs");
            drop(pin);
            if !whole {
                let throw = || throw_treeless(store, kind, &id);
                self.add(Some(&id), "it has no tree".to_owned(), "destroy it", throw);
            }
        }
        Ok(())
    }

    /// What nobody reads is not mounted.
    fn mounts(&mut self, kind: Kind) -> Result<(), StoreError> {
        let store = self.store;
        let dir = store.pool.dir(kind.group());
        let names = self.names(kind.group());
        for id in entries(&dir)?.iter().filter_map(|name| ResultId::parse(name)) {
            let whole = self.has_snapshot(&Pool::of(kind, &id));
            // One that was never finished is told of elsewhere, and may be an OBuilder's.
            if !whole && names.iter().any(|name| *name == id.as_str()) {
                continue;
            }
            let path = store.pool.pin(kind, &id);
            let _lock = store.mounts_lock()?;
            let alone = Locked::try_alone(&path).map_err(|e| failed("lock", &path, e))?;
            if let Some(alone) = alone {
                let what = "it is mounted, and nobody uses it".to_owned();
                let hide = || store.pool.hide(&Pool::of(kind, &id), whole);
                self.add(Some(&id), what, "unmount it", hide);
                alone.remove().map_err(|e| failed("remove", &path, e))?;
            }
        }
        Ok(())
    }

    fn caches(&mut self) {
        let pool = &self.store.pool;
        for name in self.names("cache") {
            let path = format!("cache/{name}");
            let dataset = pool.dataset(&path);
            if names::decode(&name).is_none() {
                let what = format!("`{dataset}` is no cache: it has not the name of one");
                let why = "whose it is cannot be known; destroy it by hand if it is nobody's";
                self.found.push(Finding::lasting(None, what, why));
            } else if !self.has_snapshot(&path) {
                let what = format!("`{dataset}` has no snapshot `@{SNAPSHOT}`, as a cache has");
                self.add(None, what, "take it", || pool.snapshot(&path, &Vec::new()));
            }
        }
    }

    fn replaced_versions(&mut self) -> Result<(), StoreError> {
        for name in replaced_versions(self.store, &self.rows)? {
            let what = format!("`{name}` is of a version that was replaced");
            let pool = &self.store.pool;
            let destroy = || {
                // Its cache may have been replaced or deleted since, and it with that.
                let _lock = exchange::lock(pool)?;
                match pool.zfs.exists(&name)? {
                    true => pool.zfs.act("destroy it", &["destroy", "-d", &name]),
                    false => Ok(()),
                }
            };
            self.add(None, what, "destroy it", destroy);
        }
        Ok(())
    }

    /// Kept trees are marked, and nothing else is.
    fn marks(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let dir = store.pool.locks().join("kept");
        let is_id = |name: &String| ResultId::parse(name);
        let marked: HashSet<_> = entries(&dir)?.iter().filter_map(is_id).collect();
        let names = self.names(Kind::Failed.group());
        let there: HashSet<_> = names
            .iter()
            .filter(|name| self.has_snapshot(&format!("{}/{name}", Kind::Failed.group())))
            .filter_map(is_id)
            .collect();
        for id in there.difference(&marked) {
            let what = "its kept tree is not marked as such".to_owned();
            self.add(Some(id), what, "mark it", || store.mark_kept(id));
        }
        for id in marked.difference(&there) {
            let remove = || remove_file(&store.pool.kept(id));
            let what = "a kept tree is marked that is not there".to_owned();
            self.add(Some(id), what, "remove the mark", remove);
        }
        Ok(())
    }

    fn locks(&mut self) -> Result<(), StoreError> {
        for dir in LOCK_DIRS.map(|dir| self.store.pool.locks().join(dir)) {
            for name in entries(&dir)? {
                let path = dir.join(&name);
                if !Locked::is_held(&path).map_err(|e| failed("look at", &path, e))? {
                    let what = format!("the lock `{name}` is of a process that was killed");
                    self.add(None, what, "remove it", || remove_lock(&path));
                }
            }
        }
        Ok(())
    }

    /// Logs and the like beside a tree that was being made, and has its place by now.
    fn made(&mut self) -> Result<(), StoreError> {
        let pool = &self.store.pool;
        for path in dead_made(pool, &self.rows)? {
            let place = pool.made(&path);
            let what = format!("`{}` was left by a process that was killed", place.display());
            self.add(None, what, "remove it", || pool.remove_made(&path));
        }
        Ok(())
    }
}

/// Destroys what is kept for `id` if it still has no tree; nobody uses it.
fn throw_treeless(store: &Inner, kind: Kind, id: &ResultId) -> Result<(), StoreError> {
    let (pin, path) = (store.pool.pin(kind, id), Pool::of(kind, id));
    let alone = Locked::try_alone(&pin).map_err(|e| failed("lock", &pin, e))?;
    let Some(alone) = alone else { return Err(StoreError::InUse(id.clone())) };
    let there = store.pool.show(&path)?;
    let whole = is_place(&store.pool.dir(&path), "rootfs");
    store.pool.hide(&path, false)?;
    if there && !whole {
        store.throw_away(&path)?;
    }
    alone.remove().map_err(|e| failed("remove", &pin, e))
}

/// Somebody may have taken it since.
fn remove_lock(path: &Path) -> Result<(), StoreError> {
    Locked::remove_if_free(path).map_err(|e| failed("remove", path, e))
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).map_err(|e| failed("remove", path, e))
}
