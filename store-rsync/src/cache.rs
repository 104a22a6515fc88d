//! Caches: what steps leave for later steps.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::{BStr, BString};
use obuilder_core::contracts::CacheLease;
use obuilder_core::error::StoreError;
use obuilder_core::fault;
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use crate::cache_name;
use crate::layout::failed;
use crate::lock::{self, Locked};
use crate::store::Inner;
use crate::trash::Rubbish;

/// A private copy of a cache.
pub(crate) struct RsyncLease {
    store: Arc<Inner>,
    dir: PathBuf,
    /// The newest version's place.
    newest: PathBuf,
    /// The version that was copied, still open: as long as it is, no later version can have its inode.
    from: Option<Locked>,
    /// Says to sweepers that we are alive; gone once the directory is not ours any more.
    lock: Option<Locked>,
}

/// The cache that a directory in `cache` is.
pub(crate) fn name(encoded: &[u8]) -> BString {
    cache_name::decode(encoded)
}

fn path(store: &Inner, name: &BStr) -> Result<PathBuf, StoreError> {
    if name.is_empty() {
        let source = "its name is empty".into();
        return Err(StoreError::Failed { action: "open a cache".to_owned(), source });
    }
    Ok(store.layout.caches().join(cache_name::encode(name)))
}

/// Held while a newest version is replaced.
fn exchange_lock(store: &Inner) -> Result<Locked, StoreError> {
    let path = store.layout.state().join("obuild-cache-lock");
    Locked::file(&path, FlockOperation::LockExclusive).map_err(|e| failed("lock", &path, e))
}

/// Deletes the cache `name`; says whether there was one.
pub(crate) fn delete(store: &Inner, name: &BStr) -> Result<bool, StoreError> {
    let path = path(store, name)?;
    let _lock = exchange_lock(store)?;
    match Locked::shared(&path).map_err(|e| failed("open", &path, e))? {
        Some(lock) => store.throw_away(&path, lock).map(|()| true),
        None => Ok(false),
    }
}

impl RsyncLease {
    pub(crate) fn take(store: &Arc<Inner>, name: &BStr) -> Result<Self, StoreError> {
        let newest = path(store, name)?;
        let encoded = cache_name::encode(name);
        let (dir, lock) =
            store.private(&store.layout.cache_tmp(), |unique| format!("{unique}-{encoded}"))?;
        fault::point("lease-made");
        let (store, lock) = (store.clone(), Some(lock));
        let mut lease = Self { store, dir, newest, from: None, lock };
        lease.fill()?;
        fault::point("lease-filled");
        Ok(lease)
    }

    fn fill(&mut self) -> Result<(), StoreError> {
        let newest = &self.newest;
        match Locked::shared(newest).map_err(|e| failed("open", newest, e))? {
            None => fs::set_permissions(&self.dir, Permissions::from_mode(0o755))
                .map_err(|e| failed("create", &self.dir, e)),
            Some(pin) => {
                self.store.copy(newest, &self.dir)?;
                pin.unlock().map_err(|e| failed("unlock", newest, e))?;
                self.from = Some(pin);
                Ok(())
            }
        }
    }

    /// Whether the newest version is still the one this lease began from.
    fn is_current(&self) -> io::Result<bool> {
        match &self.from {
            Some(from) => lock::leads_to(&self.newest, from),
            None => Ok(!fs::exists(&self.newest)?),
        }
    }

    /// Puts the copy in the place of the newest version; returns where the version before lies now.
    fn exchange(&self) -> io::Result<Option<PathBuf>> {
        if self.from.is_none() {
            return fs::rename(&self.dir, &self.newest).map(|()| None);
        }
        match rustix::fs::renameat_with(CWD, &self.dir, CWD, &self.newest, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(Some(self.dir.clone())),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
        // A kill between these two loses the cache, which is what caches are for.
        let old = self.store.layout.move_to_trash(&self.newest)?;
        fs::rename(&self.dir, &self.newest)?;
        Ok(Some(old))
    }
}

impl CacheLease for RsyncLease {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn release(mut self: Box<Self>) -> Result<bool, StoreError> {
        // After a power cut a cache with empty files would spoil every later build.
        self.store.sync_tree(&self.dir)?;
        fault::point("release-synced");
        let _lock = exchange_lock(&self.store)?;
        let newest = self.newest.clone();
        if !self.is_current().map_err(|e| failed("open", &newest, e))? {
            return Ok(false);
        }
        let old = self.exchange().map_err(|e| failed("replace", &newest, e))?;
        fault::point("release-exchanged");
        drop(self.lock.take());
        if let Some(path) = old {
            match Locked::shared(&path) {
                Ok(Some(lock)) => self.store.trash.throw(Rubbish { path, lock }),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed("lock", &path, error)),
            }
        }
        fault::point("release-done");
        Ok(true)
    }
}

impl Drop for RsyncLease {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.store.trash.throw(Rubbish { path: self.dir.clone(), lock });
        }
    }
}
