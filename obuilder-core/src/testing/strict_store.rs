//! A store for tests, stricter than any real one: it panics where a caller breaks the contract.
//!
//! It lives in one directory and one process, copies with `cp -a`, and keeps no promise about power cuts. What it checks
//! beyond the contract's words:
//!
//! - a result that is committed has `rootfs` and `log`, and nobody writes to it afterwards (looked at on every use);
//! - a base is there when a tree is begun on it;
//! - [`StrictStore::assert_nothing_held`]: no tree, lease or pin is left when a test is over.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bstr::{BStr, BString};

use crate::contracts::{Base, CacheLease, Pending, Reconciled, Snapshot, Store, Usage};
use crate::error::StoreError;
use crate::id::ResultId;

/// See the [module](self).
pub struct StrictStore {
    state_dir: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Finished results, each with what its directory looked like when it was committed.
    results: HashMap<ResultId, Vec<Stamp>>,
    kept: HashMap<ResultId, Vec<Stamp>>,
    caches: HashMap<BString, (u64, PathBuf)>,
    pins: HashMap<PathBuf, usize>,
    pending: usize,
    leases: usize,
    begun: Vec<ResultId>,
}

/// Path, size, modification time and mode.
type Stamp = (PathBuf, u64, i64, i64, u32);

impl StrictStore {
    /// A new store in `root`, which is made.
    pub fn new(root: &Path) -> Self {
        let state_dir = root.join("state");
        for dir in [
            &state_dir,
            &root.join("result"),
            &root.join("kept"),
            &root.join("pending"),
            &root.join("cache"),
        ] {
            fs::create_dir_all(dir).expect("the test's directory can be written");
        }
        Self {
            state_dir,
            shared: Arc::new(Shared { root: root.to_owned(), state: Mutex::default() }),
        }
    }

    /// Panics when a tree, a lease or a pin has not been given back.
    pub fn assert_nothing_held(&self) {
        let state = self.shared.lock();
        assert_eq!((state.pending, state.leases), (0, 0), "trees and leases that nobody gave back");
        assert_eq!(state.pins, HashMap::new(), "pins that nobody gave back");
        let left =
            fs::read_dir(self.shared.root.join("pending")).expect("the directory is ours").count();
        assert_eq!(left, 0, "scratch trees that were left");
    }

    /// The ids of all trees that were begun, in order.
    pub fn begun(&self) -> Vec<ResultId> {
        self.shared.lock().begun.clone()
    }
}

impl Store for StrictStore {
    fn location(&self) -> String {
        format!("strict:{}", self.shared.root.display())
    }

    fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    fn begin(&self, id: &ResultId, base: Base<'_>) -> Result<Box<dyn Pending>, StoreError> {
        let from = match base {
            Base::Empty => None,
            Base::Result(base) => {
                Some(self.result(base)?.ok_or_else(|| StoreError::Missing(base.clone()))?)
            }
            Base::Kept(base) => {
                Some(self.kept(base)?.ok_or_else(|| StoreError::Missing(base.clone()))?)
            }
        };
        let dir = self.shared.fresh("pending");
        fs::create_dir(&dir).map_err(|error| StoreError::io("make a tree", error))?;
        match from {
            None => fs::create_dir(dir.join("rootfs"))
                .map_err(|error| StoreError::io("make a tree", error))?,
            Some(base) => copy(&base.rootfs(), &dir.join("rootfs")),
        }
        let mut state = self.shared.lock();
        state.pending += 1;
        state.begun.push(id.clone());
        Ok(Box::new(StrictPending { shared: self.shared.clone(), id: id.clone(), dir, open: true }))
    }

    fn result(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        let state = self.shared.lock();
        let Some(stamps) = state.results.get(id).cloned() else { return Ok(None) };
        Ok(Some(self.shared.pin(state, id, "result", &stamps)))
    }

    fn kept(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        let state = self.shared.lock();
        let Some(stamps) = state.kept.get(id).cloned() else { return Ok(None) };
        Ok(Some(self.shared.pin(state, id, "kept", &stamps)))
    }

    fn results(&self) -> Result<Vec<ResultId>, StoreError> {
        Ok(self.shared.lock().results.keys().cloned().collect())
    }

    fn kept_ids(&self) -> Result<Vec<ResultId>, StoreError> {
        Ok(self.shared.lock().kept.keys().cloned().collect())
    }

    fn delete(&self, id: &ResultId) -> Result<bool, StoreError> {
        let mut state = self.shared.lock();
        let dirs = ["result", "kept"].map(|kind| self.shared.root.join(kind).join(id.as_str()));
        if dirs.iter().any(|dir| state.pins.contains_key(dir)) {
            return Err(StoreError::InUse(id.clone()));
        }
        for dir in dirs.iter().filter(|dir| dir.exists()) {
            fs::remove_dir_all(dir).map_err(|error| StoreError::io("delete a result", error))?;
        }
        let result = state.results.remove(id).is_some();
        Ok(state.kept.remove(id).is_some() || result)
    }

    fn size(&self, id: &ResultId) -> Result<u64, StoreError> {
        let state = self.shared.lock();
        let stamps = state.results.get(id).or_else(|| state.kept.get(id));
        let stamps = stamps.ok_or_else(|| StoreError::Missing(id.clone()))?;
        Ok(stamps.iter().map(|stamp| stamp.1).sum())
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage { total: 1 << 40, free: 1 << 39, free_inodes: u64::MAX })
    }

    fn reconcile(&self, known: &[ResultId]) -> Result<Reconciled, StoreError> {
        let there = self.results()?;
        Ok(Reconciled {
            unknown: there.iter().filter(|id| !known.contains(id)).cloned().collect(),
            missing: known.iter().filter(|id| !there.contains(id)).cloned().collect(),
            ..Reconciled::default()
        })
    }

    fn cache(&self, name: &BStr) -> Result<Box<dyn CacheLease>, StoreError> {
        assert!(!name.is_empty(), "a cache has a name");
        let newest = self.shared.lock().caches.get(name).cloned();
        let dir = self.shared.fresh("pending");
        match &newest {
            None => fs::create_dir(&dir).map_err(|error| StoreError::io("make a cache", error))?,
            Some((_, from)) => copy(from, &dir),
        }
        self.shared.lock().leases += 1;
        let version = newest.map_or(0, |(version, _)| version);
        Ok(Box::new(StrictLease {
            shared: self.shared.clone(),
            name: name.to_owned(),
            version,
            dir,
            open: true,
        }))
    }

    fn caches(&self) -> Result<Vec<(BString, u64)>, StoreError> {
        Ok(self.shared.lock().caches.keys().map(|name| (name.clone(), 0)).collect())
    }

    fn delete_cache(&self, name: &BStr) -> Result<bool, StoreError> {
        let removed = self.shared.lock().caches.remove(name);
        Ok(removed.map(|(_, dir)| remove(&dir)).is_some())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, kind: &str) -> PathBuf {
        let mut state = self.lock();
        state.next += 1;
        self.root.join(kind).join(state.next.to_string())
    }

    fn pin(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        id: &ResultId,
        kind: &str,
        stamps: &[Stamp],
    ) -> Snapshot {
        let dir = self.root.join(kind).join(id.as_str());
        *state.pins.entry(dir.clone()).or_insert(0) += 1;
        drop(state);
        assert_eq!(walk(&dir), stamps, "somebody wrote to the finished result {}", dir.display());
        Snapshot::new(id.clone(), dir.clone(), Pin { shared: self.clone(), dir })
    }
}

struct Pin {
    shared: Arc<Shared>,
    dir: PathBuf,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let count = state.pins.get_mut(&self.dir).expect("a pin is counted");
        *count -= 1;
        if *count == 0 {
            state.pins.remove(&self.dir);
        }
    }
}

struct StrictPending {
    shared: Arc<Shared>,
    id: ResultId,
    dir: PathBuf,
    open: bool,
}

impl StrictPending {
    fn close(&mut self) {
        self.open = false;
        self.shared.lock().pending -= 1;
    }

    fn move_to(&self, kind: &str) -> Result<Vec<Stamp>, StoreError> {
        for name in ["rootfs", "log"] {
            assert!(self.dir.join(name).exists(), "a result without `{name}`");
        }
        let target = self.shared.root.join(kind).join(self.id.as_str());
        if kind == "kept" && target.exists() {
            remove(&target);
        }
        fs::rename(&self.dir, &target).map_err(|error| StoreError::io("keep a tree", error))?;
        Ok(walk(&target))
    }
}

impl Pending for StrictPending {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.shared.lock().results.contains_key(&self.id) {
            return self.discard();
        }
        let stamps = self.move_to("result")?;
        let mut state = self.shared.lock();
        state.results.insert(self.id.clone(), stamps);
        let kept = self.shared.root.join("kept").join(self.id.as_str());
        if !state.pins.contains_key(&kept) && state.kept.remove(&self.id).is_some() {
            remove(&kept);
        }
        drop(state);
        self.close();
        Ok(())
    }

    fn keep(mut self: Box<Self>) -> Result<(), StoreError> {
        let stamps = self.move_to("kept")?;
        self.shared.lock().kept.insert(self.id.clone(), stamps);
        self.close();
        Ok(())
    }

    fn discard(mut self: Box<Self>) -> Result<(), StoreError> {
        remove(&self.dir);
        self.close();
        Ok(())
    }
}

impl Drop for StrictPending {
    fn drop(&mut self) {
        if self.open {
            remove(&self.dir);
            self.close();
        }
    }
}

struct StrictLease {
    shared: Arc<Shared>,
    name: BString,
    version: u64,
    dir: PathBuf,
    open: bool,
}

impl CacheLease for StrictLease {
    fn dir(&self) -> &Path {
        assert!(self.dir.is_dir(), "a leased cache has been moved away");
        &self.dir
    }

    fn release(mut self: Box<Self>) -> Result<bool, StoreError> {
        assert!(self.dir.is_dir(), "a leased cache was not brought back");
        self.open = false;
        let mut state = self.shared.lock();
        state.leases -= 1;
        if state.caches.get(&self.name).map_or(0, |(version, _)| *version) != self.version {
            drop(state);
            remove(&self.dir);
            return Ok(false);
        }
        state.next += 1;
        let version = state.next;
        let target = self.shared.root.join("cache").join(version.to_string());
        fs::rename(&self.dir, &target).map_err(|error| StoreError::io("release a cache", error))?;
        if let Some((_, old)) = state.caches.insert(self.name.clone(), (version, target)) {
            remove(&old);
        }
        Ok(true)
    }
}

impl Drop for StrictLease {
    fn drop(&mut self) {
        if self.open {
            self.shared.lock().leases -= 1;
            remove(&self.dir);
        }
    }
}

fn remove(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("failed to remove `{}`: {error}", dir.display())
        }
        _ => {}
    }
}

fn copy(from: &Path, to: &Path) {
    let status =
        Command::new("cp").arg("-a").arg("--").args([from, to]).status().expect("`cp` runs");
    assert!(status.success(), "failed to copy `{}`", from.display());
}

/// Everything below `dir`, by path.
fn walk(dir: &Path) -> Vec<Stamp> {
    let mut stamps = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).expect("a finished result stays");
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("a finished result can be read");
            todo.extend(entries.map(|entry| entry.expect("a finished result can be read").path()));
        }
        let size = if meta.is_dir() { 0 } else { meta.size() };
        stamps.push((path, size, meta.mtime(), meta.mtime_nsec(), meta.mode()));
    }
    stamps.sort();
    stamps
}
