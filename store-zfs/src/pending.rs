//! A result being made.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::contracts::Pending;
use obuilder_core::error::StoreError;

use crate::claim::Claim;
use crate::layout::{Kind, Pool, SNAPSHOT, failed};
use crate::lock::Locked;
use crate::store::Inner;
use crate::sweep;
use crate::tree::Work;

/// A clone in its place or in `result-tmp`, mounted in `result-tmp`.
pub(crate) struct ZfsPending {
    store: Arc<Inner>,
    id: ResultId,
    /// Below the pool; gone once the dataset is somebody else's.
    path: Option<String>,
    /// If it is in its place, unless somebody else's result has taken that meanwhile.
    claim: Option<Claim>,
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
        let (store, id, work) = (store.clone(), id.clone(), Work::default());
        let mut pending = Self { store, id, path: Some(path.clone()), claim: None, work };
        let Some((kind, base)) = base else {
            pending.work = pending.store.pool.create_tree(&path)?;
            return Ok(pending);
        };
        // A clone holds its origin by itself; until it is there, this does.
        let pin = pending.store.pin_lock(kind, base)?;
        let from = Pool::of(kind, base);
        let cloned = match pending.clone_in_place(&from, &path)? {
            None => pending.store.pool.clone_tree(&from, &path)?,
            cloned => cloned,
        };
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

    /// Clones what is at `from` where the result is to be, which saves a rename; it is mounted at `aside`. `None` if that cannot be:
    /// somebody else makes the result, or it is there.
    fn clone_in_place(&mut self, from: &str, aside: &str) -> Result<Option<Work>, StoreError> {
        let pool = self.store.pool.clone();
        if pool.mounter.wants_tree_apart() {
            return Ok(None);
        }
        let Some(claim) = self.store.claim(&self.id, aside)? else { return Ok(None) };
        let place = Pool::of(Kind::Result, &self.id);
        // Until it is mounted, it is called by its name.
        let lock = self.store.place_lock(&self.id)?;
        if !pool.cloned_at_once(from, &place) {
            return Ok(None);
        }
        (self.path, self.claim) = (Some(place.clone()), Some(claim));
        let work = pool.clone_below(from, &place, &pool.dir(aside))?;
        drop(lock);
        if work.is_none() {
            self.throw()?;
            self.path = Some(aside.to_owned());
        }
        Ok(work)
    }

    /// Has it stay in its place until the lock goes; no lock if it is not in its place.
    fn hold_place(&mut self) -> Result<Option<Locked>, StoreError> {
        let Some(claim) = &self.claim else { return Ok(None) };
        let lock = self.store.place_lock(&self.id)?;
        if !claim.is_aside(&self.store.pool)? {
            return Ok(Some(lock));
        }
        self.path = self.claim.take().map(|claim| claim.aside.clone());
        Ok(None)
    }

    /// Has it destroyed, wherever it is.
    fn throw(&mut self) -> Result<(), StoreError> {
        let place = self.hold_place()?;
        let Some(path) = self.path.take() else { return Ok(()) };
        match self.claim.take() {
            None => self.store.trash.throw(path),
            Some(claim) => {
                let pool = &self.store.pool;
                pool.hide_in(&pool.dir(&claim.aside), &path, true)?;
                // Once it has its snapshot, others may use it.
                if !pool.zfs.exists(&format!("{}@{SNAPSHOT}", pool.dataset(&path)))? {
                    self.store.throw_away(&path)?;
                }
            }
        }
        drop(place);
        Ok(())
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
        self.claim = None;
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
                // What somebody makes there, or left when it was killed.
                (false, true) => {
                    match self.store.move_aside(&self.id) {
                        Ok(true) => {}
                        Ok(false) => drop(sweep::sweep_half_made(&self.store, &self.id)?),
                        // It may have been finished or removed since.
                        Err(error) if pool.zfs.exists(&there)? && !pool.zfs.exists(&result)? => {
                            return Err(error);
                        }
                        Err(_) => {}
                    }
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

    /// What is in its place is a result as soon as it has its snapshot. Else the snapshot is on the disk before the rename, and the
    /// rename before the return: a power cut leaves the whole result or none.
    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        let to = Pool::of(Kind::Result, &self.id);
        let place = self.hold_place()?;
        // Others find it before it is unmounted here, and may not delete it yet.
        let pin = self.store.pin_lock(Kind::Result, &self.id)?;
        let path = self.finish()?;
        if place.is_some() || self.put_in_place(&path, &to)? {
            self.taken(to)?;
        }
        drop((pin, place));
        let pin = self.store.pool.pin(Kind::Result, &self.id);
        Locked::remove_if_free(&pin).map_err(|e| failed("remove", &pin, e))?;
        // If another commit came first, dropping this one discards it.
        self.store.drop_kept(&self.id)
    }

    fn keep(mut self: Box<Self>) -> Result<(), StoreError> {
        let to = Pool::of(Kind::Failed, &self.id);
        let lock = self.store.pool.pin(Kind::Failed, &self.id);
        // Nobody may begin to look at the older one now.
        let alone = Locked::try_alone(&lock).map_err(|e| failed("lock", &lock, e))?;
        let Some(alone) = alone else { return Err(StoreError::InUse(self.id.clone())) };
        let _place = self.hold_place()?;
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
        let _place = self.hold_place()?;
        let pool = self.store.pool.clone();
        let path = self.path.clone().expect("only the end of a pending result takes it");
        let dir = self.claim.as_ref().map_or(&path, |claim| &claim.aside);
        let hidden =
            pool.hide_in(&pool.dir(dir), &path, true).and_then(|()| pool.remove_made(&path));
        if hidden.is_ok() && pool.destroyed_at_once(&path) {
            (self.path, self.claim) = (None, None);
        }
        // Else dropping this one has it destroyed.
        hidden
    }
}

impl Drop for ZfsPending {
    fn drop(&mut self) {
        self.store.adopted().remove(&self.work.dir);
        if let Err(error) = self.throw() {
            // The next start removes it.
            tracing::debug!(error = &error as &dyn std::error::Error, "a tree is not removed yet");
        }
    }
}
