//! Jobs that make more jobs, done by a few threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// More threads than this have been measured to slow each other down on one filesystem.
const MOST_THREADS: usize = 4;

/// With fewer jobs waiting than this, another thread costs more than it brings.
const WORTH_A_THREAD: usize = 3;

/// Jobs still to do. The newest comes first, so trees are walked in depth and few directories are open at once.
pub(crate) struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    jobs: Vec<J>,
    running: usize,
    stopped: bool,
}

impl<J: Send> Queue<J> {
    /// Adds jobs.
    pub(crate) fn extend(&self, jobs: impl IntoIterator<Item = J>) {
        self.lock().jobs.extend(jobs);
        self.changed.notify_all();
    }

    /// Adds one job.
    pub(crate) fn push(&self, job: J) {
        self.extend([job]);
    }

    /// Forgets all jobs; those under way end by themselves.
    pub(crate) fn stop(&self) {
        let forgotten = {
            let mut state = self.lock();
            state.stopped = true;
            std::mem::take(&mut state.jobs)
        };
        self.changed.notify_all();
        drop(forgotten);
    }

    /// The next job, or `None` when nothing is left and nothing under way could make more.
    fn next(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                state.jobs.clear();
            }
            if let Some(job) = state.jobs.pop() {
                state.running += 1;
                return Some(job);
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn waiting(&self) -> usize {
        self.lock().jobs.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a job as done, also when it panicked: else the other threads would wait for ever.
struct Done<'a, J: Send>(&'a Queue<J>);

impl<J: Send> Drop for Done<'_, J> {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.0.lock();
            state.running -= 1;
            state.running == 0 && state.jobs.is_empty()
        };
        if idle {
            self.0.changed.notify_all();
        }
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// How many threads to use where the caller does not say.
pub(crate) fn default_threads() -> usize {
    processors().min(MOST_THREADS)
}

/// The same for work that reads and writes files: more than processors, as some of them will wait for the disk.
pub(crate) fn threads_that_wait() -> usize {
    processors().saturating_mul(2).min(MOST_THREADS)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does `first` and all the jobs that come of it with `work`, on the calling thread and at most `threads - 1` others.
/// Other threads start only once there is enough to do.
pub(crate) fn run<J: Send>(threads: usize, first: J, work: impl Fn(J, &Queue<J>) + Sync) {
    let state = Mutex::new(State { jobs: vec![first], running: 0, stopped: false });
    let queue = &Queue { state, changed: Condvar::new() };
    let work = &work;
    thread::scope(|scope| {
        let mut helpers = 0;
        while let Some(job) = queue.next() {
            let done = Done(queue);
            work(job, queue);
            drop(done);
            if helpers + 1 < threads && queue.waiting() >= WORTH_A_THREAD {
                helpers += 1;
                scope.spawn(move || {
                    while let Some(job) = queue.next() {
                        let _done = Done(queue);
                        work(job, queue);
                    }
                });
            }
        }
    });
}
