//! A result being made.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::contracts::{Base, Pending, Snapshot};
use obuilder_core::error::StoreError;
use obuilder_core::fault;
use tree_copy::{Draft, Moment, index_tree, remove_tree, share_identical};

use crate::ahead::Ahead;
use crate::layout::{failed, is_taken, tree_failed};
use crate::lock::{Exclusive, Locked};
use crate::snap::{self, Began};
use crate::store::Inner;
use crate::tick;
use crate::trash::Rubbish;
use crate::warm::{self, INDEX, Stamp};

/// A private directory in `result-tmp`.
pub(crate) struct RsyncPending {
    pub(crate) store: Arc<Inner>,
    pub(crate) id: ResultId,
    pub(crate) dir: PathBuf,
    base: Option<ResultId>,
    /// What the tree was when it was begun, where its index is beside it.
    known: Option<Began>,
    /// The result of that tree, which begins while the step still runs.
    ahead: Option<Ahead>,
    /// Says to sweepers that we are alive; gone once the directory is somebody else's.
    lock: Option<Locked>,
}

impl RsyncPending {
    pub(crate) fn begin(
        store: &Arc<Inner>,
        id: &ResultId,
        base: Base<'_>,
    ) -> Result<Self, StoreError> {
        let (on, from) = match base {
            Base::Empty => {
                let pending = Self::new(store, id, None)?;
                let rootfs = pending.dir.join("rootfs");
                return fs::create_dir(&rootfs)
                    .and_then(|()| fs::set_permissions(&rootfs, Permissions::from_mode(0o755)))
                    .map(|()| pending)
                    .map_err(|e| failed("create", &rootfs, e));
            }
            Base::Result(on) => (on, store.layout.result(on)),
            Base::Kept(on) => (on, store.layout.failed(on)),
        };
        let pin = store.pinned(on, from)?.ok_or_else(|| StoreError::Missing(on.clone()))?;
        if matches!(base, Base::Kept(_)) {
            let pending = Self::new(store, id, None)?;
            return store.copy(&pin.rootfs(), &pending.dir.join("rootfs")).map(|_| pending);
        }
        match Self::begin_on(store, id, &pin) {
            // What is kept for speed alone may be all that stands in the way.
            Err(StoreError::Full { .. }) if warm::drop_all(store, false)? > 0 => {
                store.trash.wait_empty();
                Self::begin_on(store, id, &pin)
            }
            begun => begun,
        }
    }

    /// Begins on a result: with a tree kept warm, or else with a copy.
    fn begin_on(store: &Arc<Inner>, id: &ResultId, base: &Snapshot) -> Result<Self, StoreError> {
        let stamp = warm::stamp(base.dir())?;
        if store.mode.links()
            && let Some(tree) = warm::take(store, id, base, &stamp)?
        {
            let (dir, lock) = (tree.dir, Some(tree.lock));
            let from = base.rootfs();
            let (base, id, store) = (Some(base.id().clone()), id.clone(), store.clone());
            let newest = tree.summary.newest;
            let mut pending = Self { store, id, dir, base, known: None, ahead: None, lock };
            pending.known = Some(pending.began(stamp, newest)?);
            pending.ahead = Ahead::start(&pending.store, &pending.id, from);
            return Ok(pending);
        }
        let mut pending = Self::new(store, id, Some(base.id()))?;
        let rootfs = pending.dir.join("rootfs");
        let copied = store.copy(&base.rootfs(), &rootfs)?;
        if copied.entries >= store.warm.least_entries && copied.is_faithful() && store.keeps_warm()
        {
            let index = || {
                let draft = index_tree(&rootfs, &base.rootfs()).map_err(tree_failed)?;
                let note = warm::note(base.id(), &stamp);
                let newest = draft.write(&pending.dir.join(INDEX), &note).map_err(tree_failed)?;
                pending.began(stamp, newest)
            };
            match index() {
                Ok(began) => {
                    pending.known = Some(began);
                    pending.ahead = Ahead::start(store, id, base.rootfs());
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the tree cannot be kept for the next step");
                    pending.remove_index()?;
                }
            }
        }
        fault::point("begin-filled");
        Ok(pending)
    }

    /// The tree is to be found without it.
    fn remove_index(&self) -> Result<(), StoreError> {
        let index = self.dir.join(INDEX);
        match fs::remove_file(&index) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &index, error))
            }
            _ => Ok(()),
        }
    }

    /// Waits until a change to the tree shows.
    fn began(&self, stamp: Stamp, newest: Moment) -> Result<Began, StoreError> {
        let index = self.dir.join(INDEX);
        let trusted_before = tick::pass(&index, newest).map_err(|e| failed("touch", &index, e))?;
        Ok(Began { stamp, trusted_before })
    }

    pub(crate) fn new(
        store: &Arc<Inner>,
        id: &ResultId,
        base: Option<&ResultId>,
    ) -> Result<Self, StoreError> {
        let (dir, lock) = store.private(&store.layout.tmp(), |unique| format!("{id}-{unique}"))?;
        let (store, id, base) = (store.clone(), id.clone(), base.cloned());
        Ok(Self { store, id, dir, base, known: None, ahead: None, lock: Some(lock) })
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

    /// Makes the directory, which is on the disk, the result, and gives its stamp; `None` when another one came before.
    ///
    /// So everything is on the disk before the rename, and the rename before the return: a power cut leaves the whole result
    /// or none.
    fn publish(mut self) -> Result<Option<Stamp>, StoreError> {
        fault::point("commit-synced");
        let (results, to) = (self.store.layout.results(), self.store.layout.result(&self.id));
        let stamp = match fs::rename(&self.dir, &to) {
            Ok(()) => {
                // As long as it is locked it is at that path.
                let stamp = warm::stamp(&to);
                drop(self.lock.take());
                Some(stamp?)
            }
            // Another commit came first; dropping this one discards it.
            Err(error) if is_taken(&error) => None,
            Err(error) => return Err(failed("finish", &to, error)),
        };
        fault::point("commit-renamed");
        self.store.sync_dir(&results)?;
        fault::point("commit-durable");
        self.drop_kept()?;
        Ok(stamp)
    }

    /// Keeps the tree, which the result was made of, for the next step on that.
    fn keep_warm(&mut self, draft: &Draft, stamp: &Stamp) -> Result<(), StoreError> {
        let store = self.store.clone();
        if draft.entries() < store.warm.least_entries || store.is_nearly_full()? {
            return Ok(());
        }
        draft.write(&self.dir.join(INDEX), &warm::note(&self.id, stamp)).map_err(tree_failed)?;
        fault::point("warm-indexed");
        warm::keep(&store, &self.dir, &self.id)?;
        drop(self.lock.take());
        warm::trim(&store)
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

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.check_whole()?;
        if let (Some(began), Some(base)) = (self.known.take(), self.base.clone()) {
            let ahead = self.ahead.take().and_then(Ahead::take);
            let snapped = snap::snapshot(&self, &base, &began, ahead)?;
            if let Some((result, draft)) = snapped {
                snap::move_beside(&self, &result)?;
                fault::point("commit-moved");
                // The tree, too: after a power cut it would be believed as far as its index says.
                self.store.sync_volume()?;
                let kept = match result.publish()? {
                    Some(stamp) => self.keep_warm(&draft, &stamp),
                    None => Ok(()),
                };
                if let Err(error) = kept {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "failed to keep a tree warm");
                }
                return Ok(());
            }
            self.remove_index()?;
        }
        self.share()?;
        fault::point("commit-shared");
        self.store.sync_tree(&self.dir)?;
        self.publish().map(drop)
    }

    fn keep(mut self: Box<Self>) -> Result<(), StoreError> {
        drop(self.ahead.take());
        self.check_whole()?;
        if self.known.take().is_some() {
            self.remove_index()?;
        }
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
        drop(self.ahead.take());
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
