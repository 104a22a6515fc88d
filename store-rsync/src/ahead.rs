//! Begins a result while its step still runs: links it to the result before, so that only the changes are left to be made.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use obuilder_core::ResultId;
use obuilder_core::fault;
use tree_copy::{Options, link_tree};

use crate::pending::RsyncPending;
use crate::store::Inner;

/// A result that a thread begins; dropping it gives that up, and waits until nothing of it is left to be made.
pub(crate) struct Ahead {
    wanted: Arc<Wanted>,
    thread: Option<JoinHandle<Option<RsyncPending>>>,
}

/// What the thread is told.
#[derive(Default)]
struct Wanted {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The step has not run for long.
    #[default]
    Waiting,
    Linking,
    GivenUp,
}

impl Wanted {
    fn is_given_up(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == State::GivenUp
    }

    /// Gives it up; unless `always`, only if nothing has been begun.
    fn give_up(&self, always: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if always || *state == State::Waiting {
            *state = State::GivenUp;
            self.changed.notify_all();
        }
    }

    /// Waits until the step has run for `delay`; says whether to begin then.
    fn begin_after(&self, delay: Duration) -> bool {
        let begun = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while *state == State::Waiting {
            let left = delay.saturating_sub(begun.elapsed());
            if left.is_zero() {
                *state = State::Linking;
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

impl Ahead {
    /// Will begin the result `id`, whose base has its tree at `base`. Nobody need pin that: whoever takes what was made must
    /// know that the base is still there. `None` when there is no thread to be had.
    pub(crate) fn start(store: &Arc<Inner>, id: &ResultId, base: PathBuf) -> Option<Self> {
        let wanted = Arc::<Wanted>::default();
        let (told, store, id) = (wanted.clone(), store.clone(), id.clone());
        let work = move || {
            if !told.begin_after(store.warm.ahead_after) {
                return None;
            }
            let result = RsyncPending::new(&store, &id, None).ok()?;
            let given_up = || told.is_given_up();
            // The other processors are the step's.
            let options =
                Options { cancel: Some(&given_up), threads: Some(1), ..Options::default() };
            let linked = link_tree(&base, &result.dir.join("rootfs"), &options);
            fault::point("ahead-linked");
            match linked {
                Ok(linked) if linked.is_faithful() => {
                    // So that the commit waits for the changes alone; it finds out itself when the disk fails.
                    if let Err(error) = store.sync_volume() {
                        tracing::debug!(%error, "what was begun is not on the disk yet");
                    }
                    return Some(result);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a result is not begun while its step runs"),
            }
            None
        };
        let thread = thread::Builder::new().name("ahead".to_owned()).spawn(work).ok()?;
        Some(Self { wanted, thread: Some(thread) })
    }

    /// The step has ended: gives what was begun, or `None` when that is nothing.
    pub(crate) fn take(mut self) -> Option<RsyncPending> {
        self.wanted.give_up(false);
        self.thread.take().and_then(|thread| thread.join().ok()).flatten()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wanted.give_up(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
