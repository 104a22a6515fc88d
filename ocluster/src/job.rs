//! A job under way, which the worker serves and whoever submitted it follows.

use std::future::Future;
use std::rc::Rc;

use crate::error::CallError;
use crate::schema_capnp::job;

/// Some of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The bytes; none means that the log has ended.
    pub bytes: Vec<u8>,
    /// Where the next chunk starts.
    pub next: i64,
}

/// What a worker does for those who follow a job.
pub trait Served: 'static {
    /// Waits until the log has something at `start`, which counts from the end when negative, and gives some of it.
    fn log(&self, start: i64) -> impl Future<Output = Result<LogChunk, CallError>>;

    /// Waits for the job's end.
    fn result(&self) -> impl Future<Output = Result<String, CallError>>;

    /// Has the job stop.
    fn cancel(&self);

    /// Nobody holds the job any more, or the connection to those who do is lost. Called once.
    fn released(&self);
}

/// A job as its holders see it. The job is served until the last clone of this goes, on either end.
#[derive(Clone)]
pub struct JobClient(pub(crate) job::Client);

impl JobClient {
    /// Serves `job`.
    pub fn serve<J: Served>(job: Rc<J>) -> Self {
        Self(capnp_rpc::new_client(Server { job }))
    }

    /// See [`Served::log`].
    pub async fn log(&self, start: i64) -> Result<LogChunk, CallError> {
        let mut request = self.0.log_request();
        request.get().set_start(start);
        let response = request.send().promise.await?;
        let response = response.get()?;
        Ok(LogChunk { bytes: response.get_log()?.to_vec(), next: response.get_next() })
    }

    /// See [`Served::result`].
    pub async fn result(&self) -> Result<String, CallError> {
        let response = self.0.result_request().send().promise.await?;
        crate::job_descr::text(response.get()?.get_output()?)
    }

    /// See [`Served::cancel`].
    pub async fn cancel(&self) -> Result<(), CallError> {
        self.0.cancel_request().send().promise.await?;
        Ok(())
    }
}

struct Server<J: Served> {
    job: Rc<J>,
}

impl<J: Served> Drop for Server<J> {
    fn drop(&mut self) {
        self.job.released();
    }
}

// A call that waits holds the job and not the server, so that its waiting does not pass for somebody's holding it.
impl<J: Served> job::Server for Server<J> {
    fn log(
        self: Rc<Self>,
        params: job::LogParams,
        mut results: job::LogResults,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        let job = self.job.clone();
        drop(self);
        async move {
            let chunk = job.log(params.get()?.get_start()).await?;
            let mut results = results.get();
            results.set_log(&chunk.bytes);
            results.set_next(chunk.next);
            Ok(())
        }
    }

    fn result(
        self: Rc<Self>,
        _: job::ResultParams,
        mut results: job::ResultResults,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        let job = self.job.clone();
        drop(self);
        async move {
            let output = job.result().await?;
            results.get().set_output(&*output);
            Ok(())
        }
    }

    fn cancel(
        self: Rc<Self>,
        _: job::CancelParams,
        _: job::CancelResults,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        self.job.cancel();
        std::future::ready(Ok(()))
    }
}
