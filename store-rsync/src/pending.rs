//! A result being made.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::contracts::Pending;
use obuilder_core::error::StoreError;
use obuilder_core::fault;
use tree_copy::{remove_tree, share_identical};

use crate::layout::{failed, is_taken, tree_failed};
use crate::lock::{Exclusive, Locked};
use crate::store::Inner;
use crate::trash::Rubbish;

/// A private directory in `result-tmp`.
pub(crate) struct RsyncPending {
    store: Arc<Inner>,
    id: ResultId,
    dir: PathBuf,
    base: Option<ResultId>,
    /// Says to sweepers that we are alive; gone once the directory is somebody else's.
    lock: Option<Locked>,
}

impl RsyncPending {
    pub(crate) fn new(
        store: Arc<Inner>,
        id: ResultId,
        (dir, lock): (PathBuf, Locked),
        base: Option<ResultId>,
    ) -> Self {
        Self { store, id, dir, base, lock: Some(lock) }
    }

    /// In the modes with hard links, lets the result share what it has in common with its base.
    fn share(&self) -> Result<(), StoreError> {
        let (Some(trust), Some(base)) = (self.store.mode.shares(), &self.base) else {
            return Ok(());
        };
        // A base that was deleted meanwhile shares nothing.
        let Some(base) = self.store.pinned(base, self.store.layout.result(base))? else {
            return Ok(());
        };
        let shared = share_identical(&self.dir.join("rootfs"), &base.rootfs(), trust)
            .map_err(tree_failed)?;
        tracing::debug!(id = self.id.short(), ?shared, "shared with the base");
        Ok(())
    }

    /// Throws away the tree of an earlier failure, which this result makes pointless, unless somebody looks at it.
    fn drop_kept(&self) -> Result<(), StoreError> {
        let kept = self.store.layout.failed(&self.id);
        match Locked::exclusive(&kept).map_err(|e| failed("lock", &kept, e))? {
            Exclusive::Locked(lock) => self.store.throw_away(&kept, lock),
            Exclusive::Held | Exclusive::Missing => Ok(()),
        }
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        let rootfs = self.dir.join("rootfs");
        match fs::symlink_metadata(&rootfs) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(failed("finish", &rootfs, ErrorKind::NotADirectory.into())),
            Err(error) => Err(failed("finish", &rootfs, error)),
        }
    }
}

impl Pending for RsyncPending {
    fn dir(&self) -> &Path {
        &self.dir
    }

    /// Everything is on the disk before the rename, and the rename before the return: a power cut leaves the whole result
    /// or none.
    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.check_whole()?;
        self.share()?;
        fault::point("commit-shared");
        self.store.sync_tree(&self.dir)?;
        fault::point("commit-synced");
        let (results, to) = (self.store.layout.results(), self.store.layout.result(&self.id));
        match fs::rename(&self.dir, &to) {
            Ok(()) => drop(self.lock.take()),
            // Another commit came first; dropping this one discards it.
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(failed("finish", &to, error)),
        }
        fault::point("commit-renamed");
        self.store.sync_dir(&results)?;
        fault::point("commit-durable");
        self.drop_kept()
    }

    fn keep(mut self: Box<Self>) -> Result<(), StoreError> {
        self.check_whole()?;
        let to = self.store.layout.failed(&self.id);
        loop {
            let moved = fs::rename(&self.dir, &to);
            match moved {
                Ok(()) => break,
                Err(error) if !is_taken(&error) => return Err(failed("keep", &to, error)),
                Err(_) => {}
            }
            match Locked::exclusive(&to).map_err(|e| failed("lock", &to, e))? {
                Exclusive::Held => return Err(StoreError::InUse(self.id.clone())),
                Exclusive::Missing => {}
                Exclusive::Locked(lock) => self.store.throw_away(&to, lock)?,
            }
            fault::point("keep-replaced");
        }
        fault::point("keep-moved");
        drop(self.lock.take());
        Ok(())
    }

    fn discard(mut self: Box<Self>) -> Result<(), StoreError> {
        let lock = self.lock.take();
        let removed = remove_tree(&self.dir);
        fault::point("discard-removed");
        drop(lock);
        removed.map_err(|e| StoreError::Failed {
            action: format!("discard `{}`", self.dir.display()),
            source: e.into(),
        })
    }
}

impl Drop for RsyncPending {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.store.trash.throw(Rubbish { path: self.dir.clone(), lock });
        }
    }
}
