//! A result being made.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::contracts::Pending;
use obuilder_core::error::StoreError;

use crate::layout::{Kind, Pool, SNAPSHOT, failed};
use crate::lock::Locked;
use crate::store::Inner;
use crate::sweep;
use crate::tree::Work;

/// A clone in `result-tmp`, mounted.
pub(crate) struct ZfsPending {
    store: Arc<Inner>,
    id: ResultId,
    /// Below the pool; gone once the dataset is somebody else's.
    path: Option<String>,
    work: Work,
}

impl ZfsPending {
    /// Begins `id` with an empty tree, or with a copy of what is kept for an id.
    pub(crate) fn begin(
        store: &Arc<Inner>,
        id: &ResultId,
        base: Option<(Kind, &ResultId)>,
    ) -> Result<Self, StoreError> {
        let path = format!("result-tmp/{id}-{}", store.pool.unique());
        // From here on it is discarded if anything fails.
        let (store, id) = (store.clone(), id.clone());
        let mut pending = Self { store, id, path: Some(path.clone()), work: Work::default() };
        let Some((kind, base)) = base else {
            pending.work = pending.store.pool.create_tree(&path)?;
            return Ok(pending);
        };
        // A clone holds its origin by itself; until it is there, this does.
        let pin = pending.store.pin_lock(kind, base)?;
        let cloned = pending.store.pool.clone_tree(&Pool::of(kind, base), &path)?;
        drop(pin);
        let lock = pending.store.pool.pin(kind, base);
        Locked::remove_if_free(&lock).map_err(|e| failed("remove", &lock, e))?;
        match cloned {
            Some(work) => pending.work = work,
            None => {
                pending.path = None;
                return Err(StoreError::Missing(base.clone()));
            }
        }
        Ok(pending)
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        let rootfs = self.work.dir.join("rootfs");
        match fs::symlink_metadata(&rootfs) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(failed("finish", &rootfs, ErrorKind::NotADirectory.into())),
            Err(error) => Err(failed("finish", &rootfs, error)),
        }
    }

    /// The dataset has got its name `to`, under which it is nobody's.
    fn taken(&mut self, to: String) -> Result<(), StoreError> {
        let path = self.path.take().expect("only the end of a pending result takes it");
        self.store.forget_sizes();
        self.store.pool.known.note(to, self.work.children.clone());
        self.store.pool.remove_made(&path)
    }

    /// The dataset's path, unmounted and with its snapshot: nothing in it changes any more.
    fn finish(&mut self) -> Result<String, StoreError> {
        self.check_whole()?;
        if let Some(children) = self.store.adopted().remove(&self.work.dir) {
            self.work.children = children;
        }
        let path = self.path.clone().expect("only the end of a pending result takes it");
        self.store.pool.finish(&path, &self.work)?;
        Ok(path)
    }
}

/// How often a result is put in its place while others put theirs there and delete it again.
const TRIES: u32 = 20;

impl ZfsPending {
    /// Says whether it is there; else another commit came first.
    fn put_in_place(&self, path: &str, to: &str) -> Result<bool, StoreError> {
        let pool = &self.store.pool;
        let (there, result) = (pool.dataset(to), format!("{}@{SNAPSHOT}", pool.dataset(to)));
        for _ in 1..TRIES {
            let Err(error) = pool.rename(path, to) else { return Ok(true) };
            match (pool.zfs.exists(&result)?, pool.zfs.exists(&there)?) {
                (true, _) => return Ok(false),
                // What a killed OBuilder left.
                (false, true) => {
                    sweep::sweep_half_made(&self.store, to)?;
                }
                (false, false) if pool.zfs.exists(&pool.dataset(path))? => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "trying again");
                }
                (false, false) => return Err(error),
            }
        }
        pool.rename(path, to).map(|()| true)
    }
}

impl Pending for ZfsPending {
    fn dir(&self) -> &Path {
        &self.work.dir
    }

    /// The snapshot is on the disk before the rename, and the rename before the return: a power cut leaves the whole result or
    /// none.
    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        let path = self.finish()?;
        let to = Pool::of(Kind::Result, &self.id);
        if self.put_in_place(&path, &to)? {
            self.taken(to)?;
        }
        // If another commit came first, dropping this one discards it.
        self.store.drop_kept(&self.id)
    }

    fn keep(mut self: Box<Self>) -> Result<(), StoreError> {
        let to = Pool::of(Kind::Failed, &self.id);
        let lock = self.store.pool.pin(Kind::Failed, &self.id);
        // Nobody may begin to look at the older one now.
        let alone = Locked::try_alone(&lock).map_err(|e| failed("lock", &lock, e))?;
        let Some(alone) = alone else { return Err(StoreError::InUse(self.id.clone())) };
        let path = self.finish()?;
        if self.store.has_kept(&self.id) {
            self.store.throw_away_kept(&self.id)?;
        }
        self.store.mark_kept(&self.id)?;
        self.store.pool.rename(&path, &to)?;
        self.taken(to)?;
        alone.remove().map_err(|e| failed("remove", &lock, e))
    }

    /// What somebody still uses, such as a reader of the log, is destroyed when they have done.
    fn discard(mut self: Box<Self>) -> Result<(), StoreError> {
        let path = self.path.take().expect("only the end of a pending result takes it");
        let pool = &self.store.pool;
        let hidden = pool.hide(&path, true).and_then(|()| pool.remove_made(&path));
        if hidden.is_err() || !pool.destroyed_at_once(&path) {
            self.store.trash.throw(path);
        }
        hidden
    }
}

impl Drop for ZfsPending {
    fn drop(&mut self) {
        self.store.adopted().remove(&self.work.dir);
        if let Some(path) = self.path.take() {
            self.store.trash.throw(path);
        }
    }
}
