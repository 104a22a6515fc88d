//! What an administrator may ask of a scheduler.

use crate::connect::Session;
use crate::error::CallError;
use crate::job_descr::{few, text};
use crate::schema_capnp::{admin, pool_admin};
use crate::worker::WorkerClient;

/// All pools of a scheduler.
#[derive(Clone)]
pub struct AdminClient(admin::Client);

impl AdminClient {
    /// The service of `session`, which must be an administrator's.
    pub fn of(session: &Session) -> Self {
        Self(session.service())
    }

    /// The names of the pools.
    pub async fn pools(&self) -> Result<Vec<String>, CallError> {
        let response = self.0.pools_request().send().promise.await?;
        let names = response.get()?.get_names()?;
        few(names.len(), "pools")?;
        names.iter().map(|name| text(name?)).collect()
    }

    /// The pool of that name, which may be used at once.
    pub fn pool(&self, name: &str) -> PoolClient {
        let mut request = self.0.pool_request();
        request.get().set_name(name);
        PoolClient(request.send().pipeline.get_pool())
    }
}

/// A worker that a pool knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its name.
    pub name: String,
    /// Whether it gets jobs.
    pub active: bool,
    /// Whether it is there.
    pub connected: bool,
}

/// One pool.
#[derive(Clone)]
pub struct PoolClient(pool_admin::Client);

impl PoolClient {
    /// What there is to say of the pool, for people.
    pub async fn show(&self) -> Result<String, CallError> {
        let response = self.0.show_request().send().promise.await?;
        text(response.get()?.get_state()?)
    }

    /// Its workers.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, CallError> {
        let response = self.0.workers_request().send().promise.await?;
        let workers = response.get()?.get_workers()?;
        few(workers.len(), "workers")?;
        let info = |worker: crate::schema_capnp::worker_info::Reader<'_>| {
            let (active, connected) = (worker.get_active(), worker.get_connected());
            Ok(WorkerInfo { name: text(worker.get_name()?)?, active, connected })
        };
        workers.iter().map(info).collect()
    }

    /// A worker that is there, which may be used at once.
    pub fn worker(&self, name: &str) -> WorkerClient {
        let mut request = self.0.worker_request();
        request.get().set_worker(name);
        WorkerClient(request.send().pipeline.get_worker())
    }

    /// Gives a worker jobs or no more jobs.
    pub async fn set_active(&self, worker: &str, active: bool) -> Result<(), CallError> {
        let mut request = self.0.set_active_request();
        let mut params = request.get();
        params.set_worker(worker);
        params.set_active(active);
        request.send().promise.await?;
        Ok(())
    }
}
