//! The store itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bstr::{BStr, BString};
use obuilder_core::ResultId;
use obuilder_core::contracts::{
    Base, CacheLease, Carry, Held, Pending, Reconciled, Snapshot, Store, Usage,
};
use obuilder_core::error::StoreError;
use obuilder_core::finding::Finding;

use crate::cache::{self, ZfsLease};
use crate::command::Zfs;
use crate::layout::{Kind, Place, Pool, SNAPSHOT, failed};
use crate::lock::{Locked, Own};
use crate::mount::ByCommand;
use crate::pending::ZfsPending;
use crate::pin::Pin;
use crate::trash::Trash;
use crate::tree::Children;
use crate::{check, held, platform, sweep};

/// How long sizes are good that came with a list of results.
const SIZES_LAST: Duration = Duration::from_secs(10);

/// How to use a pool.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command `zfs`.
    pub program: OsString,
    /// Whether everything is mounted by `zfs mount`, as on systems whose own calls mount no ZFS.
    pub mount_by_command: bool,
    /// How long the end of a process waits for what was deleted to be destroyed; the next start goes on with what is left.
    pub patience: Duration,
    /// Whether it is opened for deleting: if the pool is full, the room that is kept back for that is given back.
    pub make_room: bool,
}

impl Default for Options {
    fn default() -> Self {
        let patience = Duration::from_secs(10);
        Self { program: "zfs".into(), mount_by_command: false, patience, make_room: false }
    }
}

/// Results as ZFS datasets.
pub struct ZfsStore {
    inner: Arc<Inner>,
    state: PathBuf,
    carry: Carry,
}

/// What a store shares with the results being made in it.
pub(crate) struct Inner {
    pub(crate) trash: Trash,
    pub(crate) pool: Arc<Pool>,
    pub(crate) pins: Mutex<HashMap<(Kind, ResultId), Weak<Pin>>>,
    /// What somebody still read when it was let go of.
    pub(crate) left_mounted: Mutex<Vec<(Kind, ResultId)>>,
    sizes: Mutex<Option<(Instant, HashMap<ResultId, u64>)>>,
    /// What trees that are worked in got from an image, by their directories.
    adopted: Mutex<HashMap<PathBuf, Children>>,
    /// Tells sweepers that what is named after this opening is in use.
    _alive: Own,
}

impl ZfsStore {
    /// Opens the store in a pool, or makes an empty one there. The pool itself must be there.
    pub fn open(place: Place, options: &Options) -> Result<Self, StoreError> {
        let zfs = Zfs::new(&options.program, &place.pool);
        let mounter = match options.mount_by_command {
            true => Box::<ByCommand>::default(),
            false => platform::mounter(),
        };
        let (pool, alive) = Pool::open(zfs, mounter, place.clone(), options.make_room)?;
        let carry = pool.mounter.carry(&pool.zfs, &place, &pool.openings);
        let pool = Arc::new(pool);
        let state = pool.state();
        let trash = Trash::new(pool.clone(), options.patience);
        let (pins, sizes, left_mounted, adopted) = Default::default();
        let _alive = Own::new(alive);
        let inner = Inner { trash, pool, pins, left_mounted, sizes, adopted, _alive };
        let inner = Arc::new(inner);
        Ok(Self { inner, state, carry })
    }

    /// How many times `zfs` has been run.
    pub fn commands_run(&self) -> u64 {
        self.inner.pool.zfs.ran()
    }

    /// How it mounts, for people.
    pub fn mode(&self) -> &'static str {
        self.inner.pool.mounter.name()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    /// Moves what is at `path` below the pool to where nothing leads to it any more; gives that place.
    pub(crate) fn set_aside(&self, path: &str) -> Result<String, StoreError> {
        let to = format!("trash/{}", self.pool.unique());
        // Before it too, for the case that this process is killed in between.
        self.pool.known.changed(path, self.pool.unique());
        self.pool.rename(path, &to)?;
        self.pool.known.changed(path, self.pool.unique());
        Ok(to)
    }

    pub(crate) fn adopted(&self) -> MutexGuard<'_, HashMap<PathBuf, Children>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it there and has it destroyed.
    pub(crate) fn throw_away(&self, path: &str) -> Result<(), StoreError> {
        self.trash.throw(self.set_aside(path)?);
        Ok(())
    }

    /// Unmounts what is kept for `id`; nobody holds it any more.
    pub(crate) fn hide_kept(&self, kind: Kind, id: &ResultId) -> Result<(), StoreError> {
        self.pool.hide(&Pool::of(kind, id), true)
    }

    pub(crate) fn forget_sizes(&self) {
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether there may be a kept tree of `id`.
    pub(crate) fn has_kept(&self, id: &ResultId) -> bool {
        self.pool.kept(id).exists()
    }

    pub(crate) fn mark_kept(&self, id: &ResultId) -> Result<(), StoreError> {
        let path = self.pool.kept(id);
        fs::write(&path, "").map_err(|e| failed("write", &path, e))
    }

    /// Throws the kept tree of `id` away, if there is one; the caller has its lock alone.
    pub(crate) fn throw_away_kept(&self, id: &ResultId) -> Result<(), StoreError> {
        self.throw_away_kind(Kind::Failed, id)?;
        let path = self.pool.kept(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn throw_away_kind(&self, kind: Kind, id: &ResultId) -> Result<(), StoreError> {
        let path = Pool::of(kind, id);
        // A killed process may have left it mounted.
        self.hide_kept(kind, id)?;
        match self.throw_away(&path) {
            Err(error) if self.pool.zfs.exists(&self.pool.dataset(&path))? => Err(error),
            _ => Ok(()),
        }
    }

    /// Throws away the tree of an earlier failure, which a result makes pointless, unless somebody looks at it.
    pub(crate) fn drop_kept(&self, id: &ResultId) -> Result<(), StoreError> {
        if !self.has_kept(id) {
            return Ok(());
        }
        let lock = self.pool.pin(Kind::Failed, id);
        match Locked::try_alone(&lock).map_err(|e| failed("lock", &lock, e))? {
            None => Ok(()),
            Some(alone) => {
                self.throw_away_kept(id)?;
                alone.remove().map_err(|e| failed("remove", &lock, e))
            }
        }
    }

    /// Ids of what is kept of one kind, each with the bytes it takes.
    pub(crate) fn kept_of(&self, kind: Kind) -> Result<HashMap<ResultId, u64>, StoreError> {
        let group = self.pool.dataset(kind.group());
        let rows = self
            .pool
            .zfs
            .table(&["-r", "-t", "filesystem,snapshot", "-o", "name,used"], &[&group])?;
        Ok(kept_in(&rows, &group))
    }

    fn remember_sizes(&self, of: &HashMap<ResultId, u64>) {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        *sizes = Some((Instant::now(), of.clone()));
    }

    fn remembered_size(&self, id: &ResultId) -> Option<u64> {
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, sizes) = sizes.as_ref()?;
        sizes.get(id).copied().filter(|_| since.elapsed() < SIZES_LAST)
    }
}

/// Ids of the datasets right below `group` that have our snapshot, with the bytes that they take if the second column tells them.
pub(crate) fn kept_in(rows: &[Vec<String>], group: &str) -> HashMap<ResultId, u64> {
    let below = |name: &str| name.strip_prefix(group)?.strip_prefix('/').map(str::to_owned);
    let mut sizes = HashMap::new();
    let mut kept = HashMap::new();
    for row in rows {
        let Some(name) = below(&row[0]) else { continue };
        match name.split_once('@') {
            None => drop(sizes.insert(name, row[1].parse::<u64>().unwrap_or(0))),
            Some((name, SNAPSHOT)) => {
                let Some(id) = ResultId::parse(name) else { continue };
                kept.insert(id, sizes.get(name).copied().unwrap_or(0));
            }
            Some(_) => {}
        }
    }
    kept
}

impl ZfsStore {
    fn pinned(&self, kind: Kind, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        let pin = self.inner.pin(kind, id)?;
        Ok(pin.map(|pin| Snapshot::new(id.clone(), pin.dir(), pin)))
    }
}

impl Store for ZfsStore {
    fn location(&self) -> String {
        self.inner.pool.location()
    }

    fn state_dir(&self) -> &Path {
        &self.state
    }

    fn begin(&self, id: &ResultId, base: Base<'_>) -> Result<Box<dyn Pending>, StoreError> {
        let base = match base {
            Base::Empty => None,
            Base::Result(id) => Some((Kind::Result, id)),
            Base::Kept(id) => Some((Kind::Failed, id)),
        };
        Ok(Box::new(ZfsPending::begin(&self.inner, id, base)?))
    }

    fn result(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        self.pinned(Kind::Result, id)
    }

    fn held_result(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        let Some(pin) = self.inner.pin_known(id)? else { return self.result(id) };
        let (dir, own) = (pin.dir(), id.clone());
        let show = move || match pin.show()? {
            true => Ok(()),
            false => Err(StoreError::Missing(own.clone())),
        };
        Ok(Some(Snapshot::shown_by(id.clone(), dir, show)))
    }

    fn kept(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        if !self.inner.has_kept(id) {
            return Ok(None);
        }
        self.pinned(Kind::Failed, id)
    }

    fn results(&self) -> Result<Vec<ResultId>, StoreError> {
        let found = self.inner.kept_of(Kind::Result)?;
        self.inner.remember_sizes(&found);
        Ok(found.into_keys().collect())
    }

    fn kept_ids(&self) -> Result<Vec<ResultId>, StoreError> {
        Ok(self.inner.kept_of(Kind::Failed)?.into_keys().collect())
    }

    fn delete(&self, id: &ResultId) -> Result<bool, StoreError> {
        let (inner, pool) = (&self.inner, &self.inner.pool);
        // Both must be free before either goes.
        let mut locked = Vec::new();
        for kind in [Kind::Result, Kind::Failed] {
            let path = pool.pin(kind, id);
            match Locked::try_alone(&path).map_err(|e| failed("lock", &path, e))? {
                None => return Err(StoreError::InUse(id.clone())),
                Some(alone) => locked.push((path, alone)),
            }
        }
        let snapshot = |kind| format!("{}@{SNAPSHOT}", pool.dataset(&Pool::of(kind, id)));
        let (result, kept) = (snapshot(Kind::Result), snapshot(Kind::Failed));
        let there = pool.zfs.table(&["-t", "snapshot", "-o", "name"], &[&result, &kept])?;
        if there.iter().any(|row| row[0] == result) {
            inner.throw_away_kind(Kind::Result, id)?;
        }
        if there.iter().any(|row| row[0] == kept) {
            inner.throw_away_kept(id)?;
        }
        inner.forget_sizes();
        for (path, lock) in locked {
            lock.remove().map_err(|e| failed("remove", &path, e))?;
        }
        Ok(!there.is_empty())
    }

    fn size(&self, id: &ResultId) -> Result<u64, StoreError> {
        let pool = &self.inner.pool;
        if !self.inner.has_kept(id)
            && let Some(size) = self.inner.remembered_size(id)
        {
            return Ok(size);
        }
        let datasets = [Kind::Result, Kind::Failed].map(|kind| pool.dataset(&Pool::of(kind, id)));
        let rows = pool.zfs.table(&["-o", "used"], &[&datasets[0], &datasets[1]])?;
        Ok(rows.iter().filter_map(|row| row[0].parse::<u64>().ok()).sum())
    }

    fn held(&self) -> Result<Held, StoreError> {
        held::held(&self.inner)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        let pool = &self.inner.pool;
        let rows = pool.zfs.table(&["-o", "used,available"], &[pool.name()])?;
        let number = |column: usize| rows.first()?.get(column)?.parse::<u64>().ok();
        let (Some(used), Some(free)) = (number(0), number(1)) else {
            let (action, source) =
                ("ask ZFS for room".to_owned(), format!("it said {rows:?}").into());
            return Err(StoreError::Failed { action, source });
        };
        Ok(Usage { total: used + free, free, free_inodes: u64::MAX })
    }

    fn reconcile(&self, known: &[ResultId]) -> Result<Reconciled, StoreError> {
        sweep::reconcile(&self.inner, known)
    }

    fn check(&self, repair: bool, _: bool) -> Result<Vec<Finding>, StoreError> {
        check::check(&self.inner, repair)
    }

    fn cache(&self, name: &BStr) -> Result<Box<dyn CacheLease>, StoreError> {
        Ok(Box::new(ZfsLease::take(&self.inner, name)?))
    }

    fn caches(&self) -> Result<Vec<(BString, u64)>, StoreError> {
        cache::all(&self.inner)
    }

    fn delete_cache(&self, name: &BStr) -> Result<bool, StoreError> {
        cache::delete(&self.inner, name)
    }

    fn carry(&self) -> Carry {
        self.carry.clone()
    }
}
