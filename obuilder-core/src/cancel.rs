//! One token that says "stop", passed down to everything that takes time.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Callback = Box<dyn FnOnce() + Send>;

/// A request to stop, shared by whoever may ask and whoever must obey.
///
/// Cloning gives another handle on the same token. Once cancelled it stays so.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    next: u64,
    callbacks: Vec<(u64, Callback)>,
}

impl Cancel {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone who holds this token to stop. Asking again has no further effect.
    pub fn cancel(&self) {
        let callbacks = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.callbacks)
        };
        self.0.changed.notify_all();
        for (_, callback) in callbacks {
            callback();
        }
    }

    /// Whether someone has asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Waits for `timeout` or until cancelled; says whether it was cancelled.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(self.lock(), timeout, |state| !state.cancelled)
            .unwrap_or_else(PoisonError::into_inner);
        state.cancelled
    }

    /// Calls `f` once when the token is cancelled, at once if it already is, on the thread that cancels.
    /// Dropping the returned guard takes the callback back.
    pub fn on_cancel(&self, f: impl FnOnce() + Send + 'static) -> OnCancel {
        let mut state = self.lock();
        if state.cancelled {
            drop(state);
            f();
            return OnCancel { token: self.clone(), key: None };
        }
        let key = state.next;
        state.next += 1;
        state.callbacks.push((key, Box::new(f)));
        OnCancel { token: self.clone(), key: Some(key) }
    }

    /// A token that is cancelled when this one is, as long as the guard lives, and can be cancelled alone.
    pub fn child(&self) -> (Self, OnCancel) {
        let child = Self::new();
        let token = child.clone();
        let guard = self.on_cancel(move || token.cancel());
        (child, guard)
    }

    /// A descriptor that becomes readable when the token is cancelled, for `poll(2)`.
    pub fn readable(&self) -> io::Result<CancelFd> {
        let (read, write) = io::pipe()?;
        // Closing the only writer makes the other end readable (end of file).
        let guard = self.on_cancel(move || drop(write));
        Ok(CancelFd { read, _guard: guard })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a callback of [`Cancel::on_cancel`] registered.
#[must_use = "the callback is taken back when this is dropped"]
pub struct OnCancel {
    token: Cancel,
    key: Option<u64>,
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut state = self.token.lock();
            let taken = state.callbacks.iter().position(|(k, _)| *k == key);
            let taken = taken.map(|at| state.callbacks.swap_remove(at));
            drop(state);
            drop(taken);
        }
    }
}

/// See [`Cancel::readable`].
pub struct CancelFd {
    read: PipeReader,
    _guard: OnCancel,
}

impl AsFd for CancelFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_goes_with_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let ((one, _one), (two, _two)) = (parent.child(), parent.child());
        one.cancel();
        assert!(one.is_cancelled() && !two.is_cancelled() && !parent.is_cancelled());
        parent.cancel();
        assert!(two.is_cancelled());
        assert!(parent.child().0.is_cancelled(), "it is born cancelled");
    }
}
