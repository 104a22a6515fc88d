//! Where jobs are submitted.

use crate::connect::Session;
use crate::error::CallError;
use crate::job::JobClient;
use crate::job_descr::JobDescr;
use crate::schema_capnp::{submission, ticket};

/// A client's place to submit jobs.
#[derive(Clone)]
pub struct SubmissionClient(submission::Client);

impl SubmissionClient {
    /// The service of `session`, which must be a submission.
    pub fn of(session: &Session) -> Self {
        Self(session.service())
    }

    /// Submits a job to `pool`; an urgent one goes before the others. The ticket may be used at once.
    pub fn submit(
        &self,
        pool: &str,
        descr: &JobDescr,
        urgent: bool,
    ) -> Result<TicketClient, CallError> {
        let mut request = self.0.submit_request();
        let mut params = request.get();
        params.set_pool(pool);
        params.set_urgent(urgent);
        descr.write(params.init_descr())?;
        Ok(TicketClient(request.send().pipeline.get_ticket()))
    }
}

/// A submitted job. When the ticket and the job go, the job is cancelled.
#[derive(Clone)]
pub struct TicketClient(ticket::Client);

impl TicketClient {
    /// The job, which may be used at once: calls wait until a worker has taken it.
    pub fn job(&self) -> JobClient {
        JobClient(self.0.job_request().send().pipeline.get_job())
    }

    /// Calls the job off, whether or not a worker has taken it.
    pub async fn cancel(&self) -> Result<(), CallError> {
        self.0.cancel_request().send().promise.await?;
        Ok(())
    }
}
