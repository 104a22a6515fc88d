//! So many steps at once, and the others wait.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::cancel::Cancel;

/// Slots, some of them free.
#[derive(Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    count: usize,
    free: Mutex<usize>,
    changed: Condvar,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(Inner { count, free: Mutex::new(count), changed: Condvar::new() }))
    }

    pub(super) fn count(&self) -> usize {
        self.0.count
    }

    /// A slot, when there is one; `None` when cancelled before.
    pub(super) fn take(&self, cancel: &Cancel, waiting: &dyn Fn(&str)) -> Option<Slot> {
        let inner = self.0.clone();
        let _wake = cancel.on_cancel(move || {
            drop(inner.free.lock().unwrap_or_else(PoisonError::into_inner));
            inner.changed.notify_all();
        });
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        if *free == 0 {
            waiting("all slots are taken by other steps");
        }
        while *free == 0 && !cancel.is_cancelled() {
            free = self.0.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        if cancel.is_cancelled() {
            return None;
        }
        *free -= 1;
        Some(Slot(self.0.clone()))
    }
}

/// A slot that is taken; free again when this is dropped.
pub(super) struct Slot(Arc<Inner>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_all();
    }
}
