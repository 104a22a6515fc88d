//! One connection to a scheduler, from registration to its loss or the worker's leaving.

use std::cell::RefCell;
use std::rc::Rc;

use ocluster::job::JobClient;
use ocluster::queue::QueueClient;
use ocluster::registration::RegistrationClient;
use ocluster::worker::WorkerClient;

use super::served::Desk;
use super::{Agent, Executor, Leaving};
use crate::backoff::Backoff;
use crate::job::{Job, Outcome};
use crate::job_log::JobLog;
use crate::metrics::set;
use crate::text::chain;

impl<E: Executor> Agent<E> {
    /// Connects, registers and works; gives why it leaves, or what became of the scheduler.
    pub(super) async fn session(&self, backoff: &mut Backoff) -> Result<Leaving, String> {
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
    async fn work(&self, queue: &RefCell<QueueClient>) -> Result<Leaving, String> {
        let state = &self.state;
        let mut active = true;
        loop {
            state
                .until(|s| {
                    s.leaving.get().is_some()
                        || s.paused.get() == active
                        || s.load.get() < self.config.capacity
                })
                .await;
            let wanted = !state.paused.get() && state.leaving.get().is_none();
            let queue = queue.borrow().clone();
            if wanted != active {
                let told =
                    tokio::time::timeout(self.config.patience, queue.set_active(wanted)).await;
                told.map_err(|_| "it does not answer".to_owned())?
                    .map_err(|error| error.to_string())?;
                active = wanted;
            }
            if let Some(why) = state.leaving.get() {
                return Ok(self.drained(why).await);
            }
            if !active {
                state.until(|s| !s.paused.get() || s.leaving.get().is_some()).await;
                continue;
            }
            self.take(&queue).await?;
        }
    }

    /// Waits for one job and begins it, or for a reason not to.
    async fn take(&self, queue: &QueueClient) -> Result<(), String> {
        let log = JobLog::create(&self.config.log_dir, self.config.log_cap);
        let log = log.map_err(|error| {
            format!("failed to make a log in `{}`: {error}", self.config.log_dir.display())
        })?;
        let job = Rc::new(Job::new(log));
        let popped = tokio::select! {
            // What has come is taken, even if it came together with a reason to take no more.
            biased;
            popped = queue.pop(JobClient::serve(job.clone())) => popped.map_err(|error| error.to_string())?,
            () = self.state.until(|s| s.leaving.get().is_some() || s.paused.get()) => return Ok(()),
        };
        let number = self.state.next.get();
        self.state.next.set(number + 1);
        self.state.jobs.borrow_mut().insert(number, job.clone());
        self.forget_when_released(number, &job);
        match popped {
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
        Ok(())
    }

    fn forget_when_released(&self, number: u64, job: &Rc<Job>) {
        let (state, job) = (self.state.clone(), job.clone());
        tokio::task::spawn_local(async move {
            job.until_released().await;
            state.jobs.borrow_mut().remove(&number);
            state.changed.notify_waiters();
        });
    }

    /// Waits until the jobs have ended, and a while longer for those who follow them.
    async fn drained(&self, why: Leaving) -> Leaving {
        let running = self.state.running.get();
        tracing::info!("leaving ({why:?}) when {running} jobs have ended");
        self.state.until(|s| s.running.get() == 0).await;
        let heard = self.state.until(|s| s.jobs.borrow().is_empty());
        // Those who still have not heard will ask the scheduler in vain.
        let _ = tokio::time::timeout(self.config.linger, heard).await;
        why
    }
}
