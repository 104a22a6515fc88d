//! A step in progress: who waits for it, what it says, and how it ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::steps::{StepFailure, Work};
use crate::cancel::Cancel;
use crate::contracts::Snapshot;
use crate::log::BuildLog;

/// How a step ended: its result and where that came from, or why it failed.
pub(super) type Ending = Result<(Arc<Snapshot>, Source), Arc<StepFailure>>;

/// Where a result came from, which says what its clients have seen of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was there already: nothing yet.
    Found,
    /// It was built, here or by another process: all of it.
    Built,
}

/// Number of a client among those of one step.
pub(super) type ClientNumber = u64;

/// A step that some clients wait for and one thread builds.
pub(super) struct Running {
    state: Mutex<State>,
    changed: Condvar,
    /// Stops the step; cancelled when its last client has gone.
    pub(super) cancel: Cancel,
}

#[derive(Default)]
struct State {
    next: ClientNumber,
    attached: Vec<ClientNumber>,
    /// How each client would do the work, in case the one whose way was taken leaves and the work fails with it.
    work: VecDeque<(ClientNumber, Work)>,
    attempt: u32,
    log: Option<BuildLog>,
    waiting: Option<String>,
    /// Nobody may join any more.
    closed: bool,
    ended: bool,
    /// Until the last client has taken it, so that no pin outlives the clients.
    ending: Option<Ending>,
}

/// What a client learns next.
pub(super) enum News {
    /// The step has to wait, and what for.
    Waiting(String),
    /// An attempt has begun and writes this log; whether the client has seen that of an earlier one.
    Log(BuildLog, bool),
    /// It has ended.
    Ended,
    /// The client itself was cancelled.
    Cancelled,
}

/// What a client has seen so far.
#[derive(Default)]
pub(super) struct Seen {
    attempt: u32,
    waiting: Option<String>,
}

impl Seen {
    /// Whether the client has seen the log of an attempt.
    pub(super) fn any_log(&self) -> bool {
        self.attempt > 0
    }
}

impl Running {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), cancel: Cancel::new() })
    }

    /// Joins a client, unless the step is being cancelled: then its work comes back.
    pub(super) fn attach(&self, work: Work) -> Result<ClientNumber, Work> {
        let mut state = self.lock();
        if self.cancel.is_cancelled() || state.closed {
            return Err(work);
        }
        let number = state.next;
        state.next += 1;
        state.attached.push(number);
        state.work.push_back((number, work));
        Ok(number)
    }

    /// A client goes. When the last one goes, so does the step.
    pub(super) fn detach(&self, client: ClientNumber) {
        let mut state = self.lock();
        state.attached.retain(|number| *number != client);
        state.work.retain(|(number, _)| *number != client);
        if state.attached.is_empty() {
            // Under the lock, so that nobody attaches to a step that is about to be cancelled.
            self.cancel.cancel();
        }
    }

    /// The next client's way to do the work.
    pub(super) fn next_work(&self) -> Option<(ClientNumber, Work)> {
        self.lock().work.pop_front()
    }

    /// Whether `client`, whose work has failed, has gone while others stay who could try again.
    pub(super) fn may_retry_without(&self, client: ClientNumber) -> bool {
        let state = self.lock();
        !state.attached.contains(&client) && !state.work.is_empty() && !self.cancel.is_cancelled()
    }

    pub(super) fn publish_waiting(&self, reason: &str) {
        self.lock().waiting = Some(reason.to_owned());
        self.changed.notify_all();
    }

    /// An attempt of our own has begun to print: whatever it has waited for is over.
    pub(super) fn publish_log(&self, log: BuildLog) {
        self.lock().waiting = None;
        self.publish_elsewhere(log);
    }

    /// Another process has begun to print what it does for this step.
    pub(super) fn publish_elsewhere(&self, log: BuildLog) {
        let mut state = self.lock();
        state.attempt += 1;
        state.log = Some(log);
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn publish_ending(&self, ending: Ending) {
        let mut state = self.lock();
        state.closed = true;
        let unused = std::mem::take(&mut state.work);
        drop(state);
        // It holds pins, which must have gone when the first client hears of the end.
        drop(unused);
        let mut state = self.lock();
        state.ended = true;
        state.ending = (!state.attached.is_empty()).then_some(ending);
        drop(state);
        self.changed.notify_all();
    }

    /// How the step has ended, for a client that goes with it.
    pub(super) fn take_ending(&self, client: ClientNumber) -> Ending {
        let mut state = self.lock();
        state.attached.retain(|number| *number != client);
        let ending =
            if state.attached.is_empty() { state.ending.take() } else { state.ending.clone() };
        ending.expect("it has ended, and this client had not taken it")
    }

    /// Waits for something that the client has not seen.
    pub(super) fn news(self: &Arc<Self>, seen: &mut Seen, cancel: &Cancel) -> News {
        let this = self.clone();
        let _wake = cancel.on_cancel(move || {
            drop(this.lock());
            this.changed.notify_all();
        });
        let mut state = self.lock();
        loop {
            if state.waiting != seen.waiting && !state.ended {
                seen.waiting.clone_from(&state.waiting);
                if let Some(reason) = &state.waiting {
                    return News::Waiting(reason.clone());
                }
            }
            if state.attempt > seen.attempt {
                let again = std::mem::replace(&mut seen.attempt, state.attempt) > 0;
                return News::Log(state.log.clone().expect("an attempt has a log"), again);
            }
            if state.ended {
                return News::Ended;
            }
            if cancel.is_cancelled() {
                return News::Cancelled;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the step has ended, or `cancel`.
    pub(super) fn wait_ended(self: &Arc<Self>, cancel: &Cancel) {
        let mut seen = Seen::default();
        while !matches!(self.news(&mut seen, cancel), News::Ended | News::Cancelled) {}
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
