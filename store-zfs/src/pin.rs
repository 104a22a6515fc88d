//! Pinned results: mounted to be read while anybody, in whatever process, holds one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use obuilder_core::ResultId;
use obuilder_core::error::{StoreError, chain};

use crate::layout::{Kind, Pool, failed};
use crate::lock::Locked;
use crate::store::Inner;

/// Something that is kept, mounted and safe from deletion as long as this lives.
pub(crate) struct Pin {
    store: Arc<Inner>,
    kind: Kind,
    id: ResultId,
    /// Gone only while this is dropped.
    lock: Option<Locked>,
    /// Whether there is something to be unmounted: what an OBuilder works in is mounted at the same place.
    shown: Mutex<bool>,
    /// Whether it was known to be whole, so that what is mounted at its place is nobody's work.
    known: bool,
}

impl Inner {
    /// Pins what is kept for `id`, if there is anything.
    pub(crate) fn pin(
        self: &Arc<Self>,
        kind: Kind,
        id: &ResultId,
    ) -> Result<Option<Arc<Pin>>, StoreError> {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pin) = pins.get(&(kind, id.clone())).and_then(Weak::upgrade) {
            drop(pins);
            return Ok(pin.show()?.then_some(pin));
        }
        let pin = Arc::new(self.new_pin(kind, id, false)?);
        if !pin.show()? {
            return Ok(None);
        }
        note(&mut pins, &pin);
        Ok(Some(pin))
    }

    /// Pins the result `id`, if it is known without looking that there is one; it is not shown.
    pub(crate) fn pin_known(
        self: &Arc<Self>,
        id: &ResultId,
    ) -> Result<Option<Arc<Pin>>, StoreError> {
        let kind = Kind::Result;
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pin) = pins.get(&(kind, id.clone())).and_then(Weak::upgrade) {
            return Ok(Some(pin));
        }
        let pin = Arc::new(self.new_pin(kind, id, true)?);
        // Nobody can delete it any more. Whoever has done so before has told it.
        if self.pool.known.get(&Pool::of(kind, id)).is_none() {
            return Ok(None);
        }
        note(&mut pins, &pin);
        Ok(Some(pin))
    }

    fn new_pin(
        self: &Arc<Self>,
        kind: Kind,
        id: &ResultId,
        known: bool,
    ) -> Result<Pin, StoreError> {
        let (lock, shown) = (Some(self.pin_lock(kind, id)?), Mutex::new(false));
        Ok(Pin { store: self.clone(), kind, id: id.clone(), lock, shown, known })
    }

    /// Keeps what there may be of `id` from being deleted.
    pub(crate) fn pin_lock(&self, kind: Kind, id: &ResultId) -> Result<Locked, StoreError> {
        let path = self.pool.pin(kind, id);
        Locked::shared(&path).map_err(|e| failed("lock", &path, e))
    }

    /// Held while mounts of results, which processes share, come and go.
    pub(crate) fn mounts_lock(&self) -> Result<Locked, StoreError> {
        let path = self.pool.locks().join("mounts");
        Locked::alone(&path).map_err(|e| failed("lock", &path, e))
    }
}

fn note(pins: &mut HashMap<(Kind, ResultId), Weak<Pin>>, pin: &Arc<Pin>) {
    pins.retain(|_, pin| pin.strong_count() > 0);
    pins.insert((pin.kind, pin.id.clone()), Arc::downgrade(pin));
}

impl Pin {
    /// Where it is mounted.
    pub(crate) fn dir(&self) -> PathBuf {
        self.store.pool.dir(&self.path())
    }

    fn path(&self) -> String {
        Pool::of(self.kind, &self.id)
    }

    /// Has it mounted; says whether it is there.
    pub(crate) fn show(&self) -> Result<bool, StoreError> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !*shown {
            let _lock = self.store.mounts_lock()?;
            *shown = self.store.pool.show(&self.path()).inspect_err(|_| {
                // What is there of it in part would be taken for the whole.
                if let Err(error) = self.store.pool.hide(&self.path(), true) {
                    tracing::warn!("a result is shown in part: {}", chain(&error));
                }
            })?;
        }
        Ok(*shown)
    }

    /// Whoever lets go last unmounts it.
    fn let_go(&mut self) -> Result<(), StoreError> {
        drop(self.lock.take());
        let shown = *self.shown.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Who has shown it has perhaps let go before.
        let is_shown = shown || (self.known && self.dir().exists());
        if !is_shown {
            let path = self.store.pool.pin(self.kind, &self.id);
            return Locked::remove_if_free(&path).map_err(|e| failed("remove", &path, e));
        }
        if !self.store.unmount_unless_pinned(self.kind, &self.id)? {
            // Somebody still reads its log.
            let mut left = self.store.left_mounted.lock().unwrap_or_else(PoisonError::into_inner);
            left.push((self.kind, self.id.clone()));
        }
        Ok(())
    }
}

impl Inner {
    /// Unmounts what is kept for `id` unless it is pinned; says whether it need not be tried again.
    fn unmount_unless_pinned(&self, kind: Kind, id: &ResultId) -> Result<bool, StoreError> {
        let path = self.pool.pin(kind, id);
        let _lock = self.mounts_lock()?;
        let Some(alone) = Locked::try_alone(&path).map_err(|e| failed("lock", &path, e))? else {
            return Ok(true);
        };
        let unmounted = self.hide_kept(kind, id).is_ok();
        alone.remove().map_err(|e| failed("remove", &path, e))?;
        Ok(unmounted)
    }
}

impl Drop for Inner {
    /// By now nobody reads.
    fn drop(&mut self) {
        let left =
            std::mem::take(self.left_mounted.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (kind, id) in left {
            if !self.unmount_unless_pinned(kind, &id).is_ok_and(|done| done) {
                // The next start unmounts it.
                tracing::debug!(id = id.short(), "a result stays mounted");
            }
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            // The next start unmounts it.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to let go of a result"
            );
        }
    }
}
