//! Caches: what steps leave for later steps.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::{BStr, BString};
use obuilder_core::contracts::CacheLease;
use obuilder_core::error::StoreError;

use crate::exchange;
use crate::layout::{Pool, SNAPSHOT, failed};
use crate::names;
use crate::store::Inner;

/// A clone of a cache's newest version, mounted.
pub(crate) struct ZfsLease {
    store: Arc<Inner>,
    /// Below the pool; gone once the dataset is somebody else's.
    path: Option<String>,
    dir: PathBuf,
    /// The newest version's path below the pool.
    newest: String,
}

fn newest(name: &BStr) -> Result<String, StoreError> {
    if name.is_empty() {
        let source = "its name is empty".into();
        return Err(StoreError::Failed { action: "open a cache".to_owned(), source });
    }
    Ok(Pool::cache(name))
}

/// Deletes the cache `name`; says whether there was one.
pub(crate) fn delete(store: &Inner, name: &BStr) -> Result<bool, StoreError> {
    let path = newest(name)?;
    let _lock = exchange::lock(&store.pool)?;
    if !store.pool.zfs.exists(&store.pool.dataset(&path))? {
        return Ok(false);
    }
    store.throw_away(&path).map(|()| true)
}

/// Names and sizes of all caches.
pub(crate) fn all(store: &Inner) -> Result<Vec<(BString, u64)>, StoreError> {
    let caches = store.pool.dataset("cache");
    let wanted = ["-r", "-d", "1", "-t", "filesystem", "-o", "name,used"];
    let rows = store.pool.zfs.table(&wanted, &[&caches])?;
    let cache = |row: &Vec<String>| {
        let name = row[0].rsplit('/').next().and_then(names::decode)?;
        Some((name, row[1].parse().unwrap_or(0)))
    };
    Ok(rows.iter().skip(1).filter_map(cache).collect())
}

impl ZfsLease {
    pub(crate) fn take(store: &Arc<Inner>, name: &BStr) -> Result<Self, StoreError> {
        let newest = newest(name)?;
        let path = format!("cache-tmp/{}", store.pool.unique());
        let (store, dir) = (store.clone(), store.pool.dir(&path));
        let lease = Self { store, path: Some(path.clone()), dir, newest };
        // While a version is being replaced, there is none for a moment.
        let _no_exchange = exchange::shared_lock(&lease.store.pool)?;
        lease.fill(&path)?;
        Ok(lease)
    }

    fn fill(&self, path: &str) -> Result<(), StoreError> {
        let pool = &self.store.pool;
        let (dataset, newest) = (pool.dataset(path), pool.dataset(&self.newest));
        loop {
            if pool.clone_one(&self.newest, path, None)? {
                return pool.show_made(path);
            }
            if !pool.zfs.exists(&newest)? {
                break;
            }
            // Killed before it took the snapshot, OBuilder has left a version without.
            let snapshot = format!("{newest}@{SNAPSHOT}");
            let taken =
                pool.zfs.act(&format!("take the snapshot `{snapshot}`"), &["snapshot", &snapshot]);
            taken.or_else(|error| pool.zfs.exists(&snapshot)?.then_some(()).ok_or(error))?;
        }
        let create = ["create", "-o", "canmount=noauto", &dataset];
        pool.zfs.act(&format!("create `{dataset}`"), &create)?;
        pool.mounter.born(&dataset, &self.dir);
        pool.show_made(path)?;
        fs::set_permissions(&self.dir, Permissions::from_mode(0o755))
            .map_err(|e| failed("create", &self.dir, e))
    }

    /// Whether the newest version is still the one that this began from, and there is one. Versions that were replaced have another
    /// name, and a clone's origin follows them.
    fn is_current(&self, path: &str) -> Result<(bool, bool), StoreError> {
        let pool = &self.store.pool;
        let (own, newest) = (pool.dataset(path), pool.dataset(&self.newest));
        let rows = pool.zfs.table(&["-o", "name,origin"], &[&own, &newest])?;
        let there = rows.iter().any(|row| row[0] == newest);
        let origin = rows.iter().find(|row| row[0] == own).map(|row| row[1].as_str());
        let current = match origin {
            None | Some("-" | "") => !there,
            Some(origin) => origin == format!("{newest}@{SNAPSHOT}"),
        };
        Ok((current, there))
    }
}

impl CacheLease for ZfsLease {
    fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version before goes to the trash, where the new one is made to outlive it.
    fn release(mut self: Box<Self>) -> Result<bool, StoreError> {
        let path = self.path.clone().expect("only this takes it");
        let pool = &self.store.pool;
        check_back(&self.dir)?;
        pool.hide(&path, true)?;
        let lock = exchange::lock(pool)?;
        let (true, there) = self.is_current(&path)? else { return Ok(false) };
        pool.snapshot(&path, &Vec::new())?;
        let old = there.then(|| format!("trash/{}", pool.unique()));
        match &old {
            Some(old) => exchange::exchange(pool, &self.newest, &path, old)?,
            None => pool.rename(&path, &self.newest)?,
        }
        self.path = None;
        drop(lock);
        if let Some(old) = old {
            self.store.trash.throw(old);
        }
        Ok(true)
    }
}

fn check_back(dir: &Path) -> Result<(), StoreError> {
    fs::metadata(dir).map(drop).map_err(|e: io::Error| failed("release the cache at", dir, e))
}

impl Drop for ZfsLease {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            self.store.trash.throw(path);
        }
    }
}
