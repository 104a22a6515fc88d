//! One connection to a scheduler, from registration to its loss or the worker's leaving.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;

use ocluster::job::JobClient;
use ocluster::queue::QueueClient;
use ocluster::registration::RegistrationClient;
use ocluster::worker::WorkerClient;
use ocluster::{CallError, JobDescr};

use super::served::Desk;
use super::{Agent, Executor, Leaving, State};
use crate::backoff::Backoff;
use crate::job::{Job, Outcome};
use crate::job_log::JobLog;
use crate::metrics::set;
use obuilder_core::error::chain;

/// A wait for a job.
type Pop = Pin<Box<dyn Future<Output = Result<(Rc<Job>, Result<JobDescr, CallError>), String>>>>;

/// Turns of all tasks after which what the scheduler had sent before its last answer has come.
const TURNS: u32 = 32;

impl<E: Executor> Agent<E> {
    /// Connects, registers and works; gives why it leaves, or what became of the scheduler.
    pub(super) async fn session(&self, backoff: &mut Backoff) -> Result<Leaving, String> {
        tracing::info!("looking for the scheduler at {}", self.config.scheduler.address);
        let connected = tokio::select! {
            connected = ocluster::connect(&self.config.scheduler, &self.config.connect) => connected,
            () = self.state.until(|s| s.leaving.get().is_some() && s.running.get() == 0) => {
                return Err("this worker is leaving".into());
            }
        };
        let mut session = connected.map_err(|error| chain(&error))?;
        let desk = Rc::new(Desk::new(&self.config, self.metrics.clone(), self.state.clone()));
        let registration = RegistrationClient::of(&session);
        let (name, capacity) = (&self.config.name, self.config.capacity);
        let (queue, answer) = registration.register(name, WorkerClient::serve(desk), capacity);
        let queue = RefCell::new(queue);
        let registered = async {
            let answer = tokio::time::timeout(self.config.patience, answer).await;
            let answer = answer.map_err(|_| "it does not answer".to_owned())?;
            let resolved =
                answer.map_err(|error| format!("it does not register this worker: {error}"))?;
            queue.replace(resolved);
            tracing::info!("registered as {name} at {}", self.config.scheduler.address);
            set(&self.metrics.registered, 1);
            std::future::pending::<Result<Leaving, String>>().await
        };
        let worked = tokio::select! {
            refused = registered => refused,
            worked = self.work(&queue) => worked,
            () = session.lost() => Err("the connection is lost".into()),
        };
        if self.metrics.registered.load(std::sync::atomic::Ordering::Relaxed) == 1 {
            backoff.reset();
        }
        worked
    }

    /// Takes jobs, as many at once as there is capacity for, until it is to leave and all have ended.
    ///
    /// A scheduler does not learn that a wait for a job was called off: it would give the next job to nobody. So one wait
    /// lives through pauses, and what still comes is done, whatever the scheduler was told meanwhile.
    async fn work(&self, queue: &RefCell<QueueClient>) -> Result<Leaving, String> {
        let state = &self.state;
        let (mut active, mut pop) = (true, None);
        loop {
            let wanted = |s: &State| !s.paused.get() && s.leaving.get().is_none();
            if wanted(state) != active {
                active = wanted(state);
                let queue = queue.borrow().clone();
                let told = tokio::time::timeout(self.config.patience, queue.set_active(active));
                let told = self.beside(&mut pop, told).await?;
                told.map_err(|_| "it does not answer".to_owned())?
                    .map_err(|error| error.to_string())?;
                continue;
            }
            if let Some(why) = state.leaving.get() {
                return self.drained(why, pop).await;
            }
            let room = |s: &State| s.load.get() < self.config.capacity;
            if pop.is_none() && active && room(state) {
                pop = Some(self.pop(queue.borrow().clone()));
            }
            let idle = pop.is_none();
            let changed = state.until(|s| wanted(s) != active || (idle && active && room(s)));
            match &mut pop {
                None => changed.await,
                Some(waiting) => tokio::select! {
                    biased;
                    popped = waiting => {
                        pop = None;
                        self.begin(popped?);
                    }
                    () = changed => {}
                },
            }
        }
    }

    /// Begins to wait for a job.
    fn pop(&self, queue: QueueClient) -> Pop {
        let job = Rc::new(Job::new(JobLog::new(&self.config.log_dir, self.config.log_cap)));
        Box::pin(async move {
            let popped = queue.pop(JobClient::serve(job.clone())).await;
            popped.map(|descr| (job, descr)).map_err(|error| error.to_string())
        })
    }

    /// Waits for `other`; a job that comes meanwhile is begun.
    async fn beside<T>(
        &self,
        pop: &mut Option<Pop>,
        other: impl Future<Output = T>,
    ) -> Result<T, String> {
        tokio::pin!(other);
        loop {
            let Some(waiting) = pop else { return Ok(other.await) };
            tokio::select! {
                // What has come is done, even if it came together with a reason to take no more.
                biased;
                popped = waiting => {
                    *pop = None;
                    self.begin(popped?);
                }
                done = &mut other => return Ok(done),
            }
        }
    }

    /// Begins a job that has come.
    fn begin(&self, (job, descr): (Rc<Job>, Result<JobDescr, CallError>)) {
        let number = self.state.next.get();
        self.state.next.set(number + 1);
        self.state.jobs.borrow_mut().insert(number, job.clone());
        self.forget_when_released(number, &job);
        match descr {
            Ok(descr) => {
                tracing::info!("job {number} has come, hint `{}`", descr.cache_hint.escape_debug());
                self.start(number, &job, descr);
            }
            Err(error) => {
                tracing::warn!("job {number} cannot be read: {error}");
                job.finish(Outcome::Failed(format!(
                    "The job's description cannot be read: {error}"
                )));
            }
        }
    }

    fn forget_when_released(&self, number: u64, job: &Rc<Job>) {
        let (state, job) = (self.state.clone(), job.clone());
        tokio::task::spawn_local(async move {
            job.until_released().await;
            state.jobs.borrow_mut().remove(&number);
            state.changed.notify_waiters();
        });
    }

    /// Waits until the jobs have ended, those that were on their way too, and a while longer for those who follow them.
    async fn drained(&self, why: Leaving, mut pop: Option<Pop>) -> Result<Leaving, String> {
        let running = self.state.running.get();
        tracing::info!("leaving ({why:?}) when {running} jobs have ended");
        for _ in 0..TURNS {
            self.beside(&mut pop, tokio::task::yield_now()).await?;
        }
        self.beside(&mut pop, self.state.until(|s| s.running.get() == 0)).await?;
        let heard = self.state.until(|s| s.jobs.borrow().is_empty());
        // Those who still have not heard will ask the scheduler in vain.
        let _ = tokio::time::timeout(self.config.linger, heard).await;
        Ok(why)
    }
}
