//! Things that are done once in a build, though several nested builds come to them at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::cancel::Cancel;

/// Lets the first who comes to a thing do it, and the others wait until it is done.
pub(super) struct Once<K>(Arc<Inner<K>>);

struct Inner<K> {
    /// What was begun, and whether it is done.
    things: Mutex<HashMap<K, bool>>,
    changed: Condvar,
}

impl<K> Default for Once<K> {
    fn default() -> Self {
        Self(Arc::new(Inner { things: Mutex::default(), changed: Condvar::new() }))
    }
}

/// Who one is to a thing.
pub(super) enum Turn<K: Eq + Hash> {
    /// The one who does it.
    First(Doing<K>),
    /// It is done.
    Done,
}

impl<K: Eq + Hash> Turn<K> {
    /// Says that it is done. Without this, another one does it.
    pub(super) fn done(self) {
        if let Self::First(mut doing) = self {
            doing.done = true;
        }
    }
}

/// Somebody does it; when this is dropped, the others need not wait any longer.
pub(super) struct Doing<K: Eq + Hash> {
    inner: Arc<Inner<K>>,
    thing: K,
    done: bool,
}

impl<K: Eq + Hash + Clone + Send + 'static> Once<K> {
    /// Comes to `thing`, waiting while somebody else does it; `None` when cancelled meanwhile.
    pub(super) fn enter(&self, thing: &K, cancel: &Cancel) -> Option<Turn<K>> {
        let inner = self.0.clone();
        let _wake = cancel.on_cancel(move || {
            // Taking the lock orders this after a waiter's look at the token.
            drop(inner.lock());
            inner.changed.notify_all();
        });
        let mut things = self.0.lock();
        loop {
            match things.get(thing) {
                Some(true) => return Some(Turn::Done),
                Some(false) if cancel.is_cancelled() => return None,
                Some(false) => {
                    things = self.0.changed.wait(things).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    things.insert(thing.clone(), false);
                    let (inner, thing) = (self.0.clone(), thing.clone());
                    return Some(Turn::First(Doing { inner, thing, done: false }));
                }
            }
        }
    }
}

impl<K> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, bool>> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Doing<K> {
    fn drop(&mut self) {
        let mut things = self.inner.lock();
        if self.done {
            if let Some(done) = things.get_mut(&self.thing) {
                *done = true;
            }
        } else {
            things.remove(&self.thing);
        }
        drop(things);
        self.inner.changed.notify_all();
    }
}
