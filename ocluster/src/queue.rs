//! Where a worker gets its jobs.

use crate::error::CallError;
use crate::job::JobClient;
use crate::job_descr::JobDescr;
use crate::schema_capnp::queue;

/// A registered worker's queue.
#[derive(Clone)]
pub struct QueueClient(pub(crate) queue::Client);

impl QueueClient {
    /// Waits for a job, for as long as that may take. `job` is what its submitter will follow it by.
    ///
    /// Schedulers do not hear that a wait was called off: one that is dropped takes the next job with it, which nobody then
    /// does. Whoever wants no job for now says so by [`QueueClient::set_active`] and goes on waiting. The inner error is that of a job which is this worker's now,
    /// and whose description cannot be read.
    pub async fn pop(&self, job: JobClient) -> Result<Result<JobDescr, CallError>, CallError> {
        let mut request = self.0.pop_request();
        request.get().set_job(job.0);
        let response = request.send().promise.await?;
        let descr = || JobDescr::read(response.get()?.get_descr()?);
        Ok(descr())
    }

    /// Says whether this worker wants jobs. What waits for an inactive worker goes to others.
    pub async fn set_active(&self, active: bool) -> Result<(), CallError> {
        let mut request = self.0.set_active_request();
        request.get().set_active(active);
        request.send().promise.await?;
        Ok(())
    }
}
