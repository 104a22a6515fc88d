//! A job under way, which the worker serves and whoever submitted it follows.

use std::future::Future;
use std::rc::Rc;

use crate::error::CallError;
use crate::network::{CallOff, asked};
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

/// Waits for `answer` for as long as somebody wants it.
async fn unless_called_off<T>(
    off: &CallOff,
    answer: impl Future<Output = Result<T, CallError>>,
) -> Result<T, capnp::Error> {
    tokio::select! {
        biased;
        answer = answer => Ok(answer?),
        () = off.called_off() => Err(capnp::Error::failed("it was called off".into())),
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
        let (start, off) = asked(|| params.get().map(|params| params.get_start()));
        async move {
            let chunk = unless_called_off(&off, job.log(start?)).await?;
            let mut results = results.get();
            results.set_log(&chunk.bytes);
            results.set_next(chunk.next);
            Ok(())
        }
    }

    fn result(
        self: Rc<Self>,
        params: job::ResultParams,
        mut results: job::ResultResults,
    ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        let job = self.job.clone();
        drop(self);
        let (given, off) = asked(|| params.get().map(drop));
        async move {
            given?;
            let output = unless_called_off(&off, job.result()).await?;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use capnp_rpc::rpc_twoparty_capnp::Side;
    use capnp_rpc::{RpcSystem, twoparty};
    use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

    use super::*;
    use crate::network::WithServiceId;

    /// Has nothing to say, ever.
    #[derive(Default)]
    struct Silent {
        asked: Cell<u32>,
        waiting: Cell<i32>,
    }

    struct Waiter<'a>(&'a Cell<i32>);

    impl Drop for Waiter<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    impl Silent {
        async fn wait<T>(&self) -> T {
            self.asked.set(self.asked.get() + 1);
            self.waiting.set(self.waiting.get() + 1);
            let _waiter = Waiter(&self.waiting);
            std::future::pending().await
        }
    }

    impl Served for Silent {
        async fn log(&self, _: i64) -> Result<LogChunk, CallError> {
            self.wait().await
        }

        async fn result(&self) -> Result<String, CallError> {
            self.wait().await
        }

        fn cancel(&self) {}

        fn released(&self) {}
    }

    fn end(stream: tokio::io::DuplexStream, side: Side, job: Option<JobClient>) -> RpcSystem<Side> {
        let (read, write) = tokio::io::split(stream);
        let (read, write) = (read.compat(), write.compat_write());
        let network = twoparty::VatNetwork::new(read, write, side, Default::default());
        RpcSystem::new(Box::new(WithServiceId::new(network, b"")), job.map(|job| job.0.client))
    }

    async fn until(wanted: impl Fn() -> bool) {
        let looking = async {
            while !wanted() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), looking).await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_is_called_off_waits_no_longer() {
        let local = tokio::task::LocalSet::new();
        let test = async {
            let (one, two) = tokio::io::duplex(1 << 16);
            let silent = Rc::new(Silent::default());
            let served = JobClient::serve(silent.clone());
            tokio::task::spawn_local(end(one, Side::Server, Some(served)));
            let mut system = end(two, Side::Client, None);
            let job = JobClient(system.bootstrap(Side::Server));
            tokio::task::spawn_local(system);
            let mut stays = Box::pin(job.log(7));
            assert!(futures::poll!(&mut stays).is_pending());
            until(|| silent.waiting.get() == 1).await;
            for round in 1..=100 {
                let (mut log, mut result) = (Box::pin(job.log(0)), Box::pin(job.result()));
                assert!(futures::poll!(&mut log).is_pending());
                assert!(futures::poll!(&mut result).is_pending());
                until(|| silent.asked.get() == 1 + 2 * round).await;
                drop((log, result));
                until(|| silent.waiting.get() == 1).await;
            }
            assert!(futures::poll!(&mut stays).is_pending());
        };
        local.run_until(test).await;
    }
}
