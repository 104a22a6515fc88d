//! Registers with a scheduler, takes jobs and serves them, and finds the scheduler again when it is lost.

mod served;
mod session;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ocluster::{CapUri, JobDescr};
use tokio::sync::Notify;

use crate::backoff::Backoff;
use crate::job::{Job, Outcome};
use crate::job_log::JobLog;
use crate::metrics::{Metrics, add, set};
use crate::weight::{Scale, Weights};

/// Most logs of jobs that have ended and are still held, and most of them on disk, each of which takes a descriptor, unless there is
/// capacity for more jobs than half of that.
const MOST_ENDED_LOGS: usize = 2000;
const MOST_ENDED_FILES: usize = 100;

/// What does the jobs.
pub trait Executor: Send + Sync + 'static {
    /// Does a job, with all that it has to say on `log` but its last words, and stops soon when `cancel` is cancelled.
    ///
    /// Called on a thread of its own for each job.
    fn run(&self, job: &JobDescr, log: &JobLog, cancel: &obuilder_core::Cancel) -> Outcome;
}

/// How a worker presents itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, which no other worker of the pool has.
    pub name: String,
    /// Jobs it does at once.
    pub capacity: u32,
    /// Where it registers.
    pub scheduler: CapUri,
    /// How to connect.
    pub connect: ocluster::connect::Options,
    /// First and longest wait before it looks for a lost scheduler.
    pub reconnect: (Duration, Duration),
    /// Where logs of jobs are, while the jobs are held.
    pub log_dir: PathBuf,
    /// Most bytes of one job's log.
    pub log_cap: u64,
    /// Most bytes on disk of all logs of jobs that have ended and are still held; the oldest make room.
    pub ended_logs_cap: u64,
    /// Longest time for one job.
    pub job_timeout: Option<Duration>,
    /// How long those who follow a job may take to hear of its end before the worker leaves.
    pub linger: Duration,
    /// How much of the capacity a job takes.
    pub weights: Weights,
    /// Longest time that a scheduler may take to answer a question that needs no waiting.
    pub patience: Duration,
    /// Metrics of others that the scheduler may ask for: their name and URL.
    pub additional_metrics: Vec<(String, String)>,
}

/// Why a worker left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It was asked to, here.
    Stopped,
    /// The scheduler asked it to restart.
    Update,
}

/// A worker. Belongs to one thread; [`Agent::run`] must be called in a [`tokio::task::LocalSet`].
pub struct Agent<E> {
    config: Config,
    executor: Arc<E>,
    metrics: Arc<Metrics>,
    state: Rc<State>,
    scale: Arc<Scale>,
}

/// What the parts of an agent share.
#[derive(Default)]
pub(crate) struct State {
    /// Jobs that are held or under way, by number.
    jobs: RefCell<BTreeMap<u64, Rc<Job>>>,
    next: Cell<u64>,
    running: Cell<u32>,
    /// What the jobs under way weigh.
    load: Cell<u32>,
    leaving: Cell<Option<Leaving>>,
    paused: Cell<bool>,
    /// Something of the above has changed.
    changed: Notify,
}

impl State {
    /// Begins to leave: no more jobs are taken.
    pub(crate) fn leave(&self, why: Leaving) {
        if self.leaving.get().is_none() {
            self.leaving.set(Some(why));
        }
        self.changed.notify_waiters();
    }

    /// Waits until `wanted`.
    async fn until(&self, wanted: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if wanted(self) {
                return;
            }
            changed.await;
        }
    }

    /// Forgets the oldest logs of jobs that have ended, until the others take no more than `cap` bytes of the disk and are few enough.
    fn make_room(&self, cap: u64, most_files: usize) {
        let jobs = self.jobs.borrow();
        let kept =
            || jobs.iter().filter_map(|(at, job)| Some((at, job, job.log().kept_after_its_end()?)));
        let mut all =
            kept().fold((0, 0, 0), |(bytes, files, logs), (_, _, kept)| match kept.file {
                true => (bytes + kept.bytes, files + 1, logs + 1),
                false => (bytes, files, logs + 1),
            });
        for (number, job, kept) in kept() {
            let many = all.2 > MOST_ENDED_LOGS;
            if !many && all.0 <= cap && all.1 <= most_files {
                return;
            }
            if many || kept.file {
                tracing::info!(
                    "the log of job {number}, {} bytes, makes room for others",
                    kept.bytes
                );
                job.log().forget();
                let (bytes, files) = if kept.file { (kept.bytes, 1) } else { (0, 0) };
                all = (all.0 - bytes, all.1 - files, all.2 - 1);
            }
        }
    }

    fn cancel_all(&self) {
        self.jobs.borrow().values().for_each(|job| job.token().cancel());
    }
}

/// Tells a running agent what to do.
#[derive(Clone)]
pub struct Control(Rc<State>);

impl Control {
    /// Has it take no more jobs, finish those it has, and leave.
    pub fn drain(&self) {
        self.0.leave(Leaving::Stopped);
    }

    /// Has it stop its jobs and leave.
    pub fn stop(&self) {
        self.0.leave(Leaving::Stopped);
        self.0.cancel_all();
    }

    /// Has it take no jobs for a while, and tell the scheduler so; or take them again.
    pub fn pause(&self, paused: bool) {
        self.0.paused.set(paused);
        self.0.changed.notify_waiters();
    }

    /// Waits until a job is under way.
    pub async fn until_busy(&self) {
        self.0.until(|state| state.running.get() > 0).await;
    }

    /// How many jobs are under way.
    pub fn running(&self) -> u32 {
        self.0.running.get()
    }
}

impl<E: Executor> Agent<E> {
    /// An agent that has `executor` do its jobs.
    pub fn new(config: Config, executor: Arc<E>, metrics: Arc<Metrics>) -> Self {
        set(&metrics.capacity, u64::from(config.capacity));
        let scale = Arc::new(Scale::new(config.capacity));
        Self { config, executor, metrics, state: Rc::default(), scale }
    }

    /// A way to tell it what to do.
    pub fn control(&self) -> Control {
        Control(self.state.clone())
    }

    /// Works until it is told to leave.
    pub async fn run(self) -> Leaving {
        let (first, longest) = self.config.reconnect;
        let mut backoff = Backoff::new(first, longest, seed(&self.config.name));
        loop {
            if let Some(why) = self.state.leaving.get()
                && self.state.running.get() == 0
            {
                return why;
            }
            let lost = match self.session(&mut backoff).await {
                Ok(why) => return why,
                Err(lost) => lost,
            };
            set(&self.metrics.registered, 0);
            add(&self.metrics.reconnects, 1);
            // Nobody can hear of these any more; what they have built stays in the store.
            self.state.cancel_all();
            let wait = backoff.wait();
            if self.state.leaving.get().is_none() {
                tracing::warn!(
                    "no scheduler ({lost}); the next attempt is in {:.1} s",
                    wait.as_secs_f64()
                );
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.state.until(|s| s.leaving.get().is_some() && s.running.get() == 0) => {}
            }
        }
    }

    /// Begins a job that was taken.
    fn start(&self, number: u64, job: &Rc<Job>, descr: JobDescr) {
        let (job, executor, metrics) = (job.clone(), self.executor.clone(), self.metrics.clone());
        let (state, limit) = (self.state.clone(), self.config.job_timeout);
        let logs_cap = self.config.ended_logs_cap;
        let most_files = MOST_ENDED_FILES.max(2 * self.config.capacity as usize);
        add(&metrics.accepted, 1);
        let weight = self.config.weights.of(&descr.cache_hint).min(self.config.capacity);
        state.running.set(state.running.get() + 1);
        state.load.set(state.load.get() + weight);
        state.changed.notify_waiters();
        set(&metrics.running, u64::from(state.running.get()));
        job.log().write(format!("Building on {}\n", self.config.name).as_bytes());
        let began = Instant::now();
        let work = tokio::task::spawn_blocking({
            let (log, cancel, scale) = (job.log().clone(), job.token().clone(), self.scale.clone());
            move || {
                let waits =
                    || log.write(b"Waiting until other jobs have made room for this heavy one\n");
                match scale.enter(weight, &cancel, waits) {
                    Some(_place) => executor.run(&descr, &log, &cancel),
                    None => Outcome::Cancelled,
                }
            }
        });
        tokio::task::spawn_local(async move {
            let (outcome, result) = ended(work, &job, limit, &metrics).await;
            tracing::info!(
                "job {number} has ended after {:.1} s: {result}",
                began.elapsed().as_secs_f64()
            );
            job.finish(outcome);
            state.make_room(logs_cap, most_files);
            add(&metrics.log_bytes, job.log().len());
            metrics.ended(result, began.elapsed());
            state.running.set(state.running.get() - 1);
            state.load.set(state.load.get() - weight);
            set(&metrics.running, u64::from(state.running.get()));
            state.changed.notify_waiters();
        });
    }
}

/// Waits for the end of a job, and stops it at its time limit.
async fn ended(
    mut work: tokio::task::JoinHandle<Outcome>,
    job: &Job,
    limit: Option<Duration>,
    metrics: &Metrics,
) -> (Outcome, &'static str) {
    let mut timed_out = false;
    let joined = match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, &mut work).await {
            Ok(joined) => joined,
            Err(_) => {
                timed_out = true;
                add(&metrics.timed_out, 1);
                job.token().cancel();
                work.await
            }
        },
    };
    let seconds = limit.unwrap_or_default().as_secs();
    match joined {
        Ok(Outcome::Cancelled) if timed_out => {
            (Outcome::Failed(format!("Job stopped at its time limit of {seconds} s")), "fail")
        }
        Ok(Outcome::Cancelled) => (Outcome::Cancelled, "cancelled"),
        Ok(outcome @ Outcome::Succeeded(_)) => (outcome, "ok"),
        Ok(outcome @ Outcome::Failed(_)) => (outcome, "fail"),
        Err(error) => {
            tracing::error!("a job has panicked: {error}");
            (Outcome::Failed("Uncaught exception: the worker has a defect".into()), "error")
        }
    }
}

/// A number that differs between workers and between runs.
fn seed(name: &str) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(name)
}
