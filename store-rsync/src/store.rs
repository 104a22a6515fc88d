//! The store itself.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bstr::{BStr, BString};
use obuilder_core::contracts::{Base, CacheLease, Pending, Reconciled, Snapshot, Store, Usage};
use obuilder_core::error::StoreError;
use obuilder_core::fault;
use obuilder_core::finding::Finding;
use obuilder_core::id::ResultId;
use rustix::fs::{FlockOperation, StatVfs};
use tree_copy::{Copied, How, Options, copy_tree, tree_size};

use crate::cache::{self, RsyncLease};
use crate::check;
use crate::layout::{Layout, failed, tree_failed};
use crate::lock::{Exclusive, Locked};
use crate::mode::Mode;
use crate::pending::RsyncPending;
use crate::sweep;
use crate::tick;
use crate::trash::{Rubbish, Trash};
use crate::warm::{self, WarmTrees};

/// Results as directory trees on any filesystem.
pub struct RsyncStore {
    inner: Arc<Inner>,
    state: PathBuf,
}

/// What a store shares with the results being made in it.
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    /// Never [`Mode::Auto`].
    pub(crate) mode: Mode,
    pub(crate) warm: WarmTrees,
    /// Whether a file's ctime tells of everything here; found out when it matters.
    ctime_tells: OnceLock<bool>,
    pub(crate) trash: Trash,
    /// Whether nobody waits for the disk.
    pub(crate) fast_sync: bool,
}

impl RsyncStore {
    /// Opens the store at `root`, or makes an empty one there with all the directories above it.
    ///
    /// Whether the volume can clone is found out by doing it; [`Mode::Reflink`] where it cannot is an error.
    pub fn open(root: &Path, mode: Mode) -> Result<Self, StoreError> {
        Self::open_with(root, mode, WarmTrees::default())
    }

    /// How many trees are kept warm for the next step now, those that a step has taken included; none where they cannot be counted.
    pub fn warm_trees(&self) -> u64 {
        warm::dirs(&self.inner, None).map_or(0, |dirs| dirs.len() as u64)
    }

    /// As [`RsyncStore::open`], keeping trees warm as `warm` says.
    pub fn open_with(root: &Path, mode: Mode, warm: WarmTrees) -> Result<Self, StoreError> {
        let layout = Layout::open(root)?;
        let (ctime_tells, trash) = (OnceLock::new(), Trash::default());
        let mut inner = Inner { layout, mode, warm, ctime_tells, trash, fast_sync: false };
        inner.mode = match mode {
            Mode::Auto if inner.try_clone().is_ok() => Mode::Reflink,
            Mode::Auto => Mode::Hardlink,
            Mode::Reflink => match inner.try_clone() {
                // Nothing can be tried on a full disk, where it must still be possible to delete.
                Ok(()) | Err(StoreError::Full { .. }) => Mode::Reflink,
                Err(error) => return Err(error),
            },
            other => other,
        };
        let state = inner.layout.state();
        Ok(Self { inner: Arc::new(inner), state })
    }

    /// Waits at its end for at most so long until all that was deleted is gone (10 seconds); the next start goes on with the rest.
    pub fn patience(mut self, patience: Duration) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.trash.patience = patience;
        }
        self
    }

    /// Does not wait for the disk: a power cut may then leave results that are not whole, which nothing but a digest tells.
    pub fn fast_sync(mut self, fast: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.fast_sync = fast;
        }
        self
    }

    /// The mode in force: for [`Mode::Auto`] what it was found to mean on this volume.
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    fn delete_at(&self, id: &ResultId, paths: [PathBuf; 2]) -> Result<bool, StoreError> {
        // Both must be free before either goes.
        let mut locked = Vec::new();
        for path in paths {
            match Locked::exclusive(&path).map_err(|e| failed("lock", &path, e))? {
                Exclusive::Held => return Err(StoreError::InUse(id.clone())),
                Exclusive::Missing => {}
                Exclusive::Locked(lock) => locked.push((path, lock)),
            }
        }
        fault::point("delete-locked");
        let any = !locked.is_empty();
        for (path, lock) in locked {
            self.inner.throw_away(&path, lock)?;
        }
        Ok(any)
    }
}

impl Inner {
    /// Makes a new private directory in `parent`, locked so that sweepers leave it alone. `name` is made unique.
    pub(crate) fn private(
        &self,
        parent: &Path,
        name: impl Fn(&str) -> String,
    ) -> Result<(PathBuf, Locked), StoreError> {
        // Between the making and the locking a sweeper would take it for a dead one's.
        let lock = self.layout.lock();
        let _no_sweep = Locked::file(&lock, FlockOperation::LockShared)
            .map_err(|e| failed("lock", &lock, e))?;
        loop {
            let dir = parent.join(name(&self.layout.unique()));
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("create", &dir, error)),
            }
            fault::point("begin-made");
            match Locked::shared(&dir).map_err(|e| failed("lock", &dir, e))? {
                Some(locked) => return Ok((dir, locked)),
                None => return Err(failed("lock", &dir, std::io::ErrorKind::NotFound.into())),
            }
        }
    }

    /// The result or kept tree at `dir`, pinned.
    pub(crate) fn pinned(
        &self,
        id: &ResultId,
        dir: PathBuf,
    ) -> Result<Option<Snapshot>, StoreError> {
        let pin = Locked::shared(&dir).map_err(|e| failed("open", &dir, e))?;
        Ok(pin.map(|pin| Snapshot::new(id.clone(), dir, pin)))
    }

    /// Moves the locked directory `path` out of sight and has it emptied.
    pub(crate) fn throw_away(&self, path: &Path, lock: Locked) -> Result<(), StoreError> {
        let to = self.layout.move_to_trash(path).map_err(|e| failed("delete", path, e))?;
        fault::point("trash-moved");
        self.trash.throw(Rubbish { path: to, lock });
        Ok(())
    }

    /// Brings everything that was written to the volume to the disk.
    pub(crate) fn sync_volume(&self) -> Result<(), StoreError> {
        let root = self.layout.root();
        if self.fast_sync { Ok(()) } else { tree_copy::sync_volume(root).map_err(tree_failed) }
    }

    /// Brings a tree to the disk.
    pub(crate) fn sync_tree(&self, path: &Path) -> Result<(), StoreError> {
        if self.fast_sync { Ok(()) } else { tree_copy::sync_tree(path).map_err(tree_failed) }
    }

    /// Brings the names in a directory to the disk.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        if self.fast_sync { Ok(()) } else { tree_copy::sync_dir(path).map_err(tree_failed) }
    }

    /// Copies a tree in the store's mode.
    pub(crate) fn copy(&self, from: &Path, to: &Path) -> Result<Copied, StoreError> {
        let options = Options { how: self.mode.how(), ..Options::default() };
        let copied = copy_tree(from, to, &options).map_err(tree_failed)?;
        if !copied.skipped.is_empty() {
            tracing::warn!(skipped = ?copied.skipped, "left out what cannot be copied");
        }
        Ok(copied)
    }

    /// Whether trees may be kept warm in this mode and on this volume.
    pub(crate) fn keeps_warm(&self) -> bool {
        self.mode.links()
            && self.warm.most > 0
            && *self.ctime_tells.get_or_init(|| {
                self.in_probe_dir(|dir| {
                    let path = dir.join("mapped");
                    tick::tells_mapped_writes(&path).map_err(|e| failed("try", &path, e))
                })
                .unwrap_or_else(|error| {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no tree is kept warm"
                    );
                    false
                })
            })
    }

    /// Whether the volume has so little room left that nothing may be kept for speed alone.
    pub(crate) fn is_nearly_full(&self) -> Result<bool, StoreError> {
        let volume = self.volume()?;
        Ok(volume.f_bavail < volume.f_blocks / 20 || volume.f_favail < volume.f_files / 20)
    }

    fn volume(&self) -> Result<StatVfs, StoreError> {
        let root = self.layout.root();
        rustix::fs::statvfs(root).map_err(|e| failed("measure the volume of", root, e.into()))
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        let volume = self.volume()?;
        Ok(Usage {
            total: volume.f_blocks * volume.f_frsize,
            free: volume.f_bavail * volume.f_frsize,
            // Filesystems that make inodes as they go report none at all.
            free_inodes: if volume.f_files == 0 { u64::MAX } else { volume.f_favail },
        })
    }

    /// Tries something in a directory that goes away afterwards.
    fn in_probe_dir<T>(
        &self,
        attempt: impl FnOnce(&Path) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (dir, lock) = self.private(&self.layout.tmp(), |unique| format!("probe-{unique}"))?;
        let done = attempt(&dir);
        let removed = tree_copy::remove_tree(&dir);
        drop(lock);
        if let Err(error) = removed {
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to clean up");
        }
        done
    }

    fn try_clone(&self) -> Result<(), StoreError> {
        self.in_probe_dir(|dir| {
            let from = dir.join("a");
            fs::create_dir(&from)
                .and_then(|()| fs::write(from.join("a"), [0; 8192]))
                .map_err(|e| failed("write", &from, e))?;
            let options = Options { how: How::Reflink, ..Options::default() };
            copy_tree(&from, &dir.join("b"), &options).map(drop).map_err(tree_failed)
        })
    }
}

/// Ids that `dir` holds directories of.
pub(crate) fn ids_in(dir: &Path) -> Result<Vec<ResultId>, StoreError> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| failed("list", dir, e))? {
        let name = entry.map_err(|e| failed("list", dir, e))?.file_name();
        ids.extend(name.to_str().and_then(ResultId::parse));
    }
    Ok(ids)
}

impl Store for RsyncStore {
    fn location(&self) -> String {
        self.inner.layout.location()
    }

    fn state_dir(&self) -> &Path {
        &self.state
    }

    fn begin(&self, id: &ResultId, base: Base<'_>) -> Result<Box<dyn Pending>, StoreError> {
        let pending = RsyncPending::begin(&self.inner, id, base)?;
        Ok(Box::new(pending))
    }

    fn result(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        self.inner.pinned(id, self.inner.layout.result(id))
    }

    fn kept(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        self.inner.pinned(id, self.inner.layout.failed(id))
    }

    fn results(&self) -> Result<Vec<ResultId>, StoreError> {
        ids_in(&self.inner.layout.results())
    }

    fn kept_ids(&self) -> Result<Vec<ResultId>, StoreError> {
        ids_in(&self.inner.layout.all_failed())
    }

    fn delete(&self, id: &ResultId) -> Result<bool, StoreError> {
        let layout = &self.inner.layout;
        let deleted = self.delete_at(id, [layout.result(id), layout.failed(id)])?;
        warm::forget(&self.inner, id)?;
        Ok(deleted)
    }

    fn size(&self, id: &ResultId) -> Result<u64, StoreError> {
        let mut size = 0;
        for pin in [self.result(id)?, self.kept(id)?].into_iter().flatten() {
            size += tree_size(pin.dir()).map_err(tree_failed)?.freed;
        }
        Ok(size)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }

    fn drop_warm(&self, measure: bool) -> Result<u64, StoreError> {
        warm::drop_all(&self.inner, measure)
    }

    fn reconcile(&self, known: &[ResultId]) -> Result<Reconciled, StoreError> {
        sweep::reconcile(&self.inner, known)
    }

    fn check(&self, repair: bool, deep: bool) -> Result<Vec<Finding>, StoreError> {
        check::check(&self.inner, repair, deep)
    }

    fn cache(&self, name: &BStr) -> Result<Box<dyn CacheLease>, StoreError> {
        Ok(Box::new(RsyncLease::take(&self.inner, name)?))
    }

    fn caches(&self) -> Result<Vec<(BString, u64)>, StoreError> {
        let caches = self.inner.layout.caches();
        let mut all = Vec::new();
        for entry in fs::read_dir(&caches).map_err(|e| failed("list", &caches, e))? {
            let entry = entry.map_err(|e| failed("list", &caches, e))?;
            // Pinned, or it could be replaced while it is measured.
            let path = entry.path();
            if let Some(_pin) = Locked::shared(&path).map_err(|e| failed("open", &path, e))? {
                let size = tree_size(&path).map_err(tree_failed)?;
                all.push((cache::name(entry.file_name().as_bytes()), size.freed));
            }
        }
        Ok(all)
    }

    fn delete_cache(&self, name: &BStr) -> Result<bool, StoreError> {
        cache::delete(&self.inner, name)
    }
}
