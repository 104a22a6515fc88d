//! Bytes that nobody vouches for, given to what reads bytes from outside.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::pool::decode;
use crate::connect::{Options, speak};
use crate::error::CallError;
use crate::job::{JobClient, LogChunk};
use crate::job_descr::JobDescr;
use crate::registration::RegistrationClient;
use crate::uri::{Address, CapUri, Server};
use crate::worker::{Metrics, MetricsSource, WorkerClient};

/// Reads `bytes`, one segment of a message, as a job's description. What can be read is written and read again.
///
/// # Panics
/// When what is read the second time is something else.
pub fn description(bytes: &[u8]) -> Option<JobDescr> {
    let whole = bytes.get(..bytes.len() & !7)?;
    let found = decode(whole, read).ok()?;
    // A kind that this version does not know cannot be written.
    if !matches!(found.action, crate::Action::Unknown(_)) {
        let again =
            decode(&super::pool::encode(&found), read).expect("what was read can be written");
        assert_eq!(again, found);
    }
    Some(found)
}

fn read(from: crate::schema_capnp::job_descr::Reader<'_>) -> capnp::Result<JobDescr> {
    Ok(JobDescr::read(from)?)
}

/// Has a worker register with a scheduler that says `bytes` whatever it is asked, and then hangs up.
///
/// # Panics
/// When the worker is not rid of the connection soon after.
pub fn conversation(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let talk = async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let address = Address::Tcp { host: "scheduler".into(), port: 1 };
        let uri = CapUri { server: Server::Insecure, address, service: b"service".to_vec() };
        let mut session = speak(Box::new(ours), &uri, &Options::default());
        let (mut hears, mut says) = tokio::io::split(theirs);
        let all = bytes.to_vec();
        let hangs_up = tokio::task::spawn_local(async move {
            // The worker may have hung up before.
            let _ = says.write_all(&all).await;
            let _ = says.shutdown().await;
        });
        let listens = tokio::task::spawn_local(async move {
            let mut heard = Vec::new();
            // The same.
            let _ = hears.read_to_end(&mut heard).await;
        });
        let worker = WorkerClient::serve(Rc::new(Worker));
        let (queue, answer) = RegistrationClient::of(&session).register("w1", worker, 1);
        let pop = queue.pop(JobClient::serve(Rc::new(Job)));
        // Whatever they come to.
        let _ = tokio::join!(answer, pop);
        session.lost().await;
        drop((session, queue));
        let _ = hangs_up.await;
        let _ = listens.await;
    };
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), talk).await };
    let ended = LocalSet::new().block_on(&runtime.expect("a runtime can be had"), bounded);
    ended.expect("the worker is rid of a scheduler that has hung up");
}

struct Worker;

impl crate::worker::Served for Worker {
    async fn metrics(&self, source: MetricsSource) -> Result<Metrics, CallError> {
        Ok(Metrics { content_type: "text/plain".into(), data: format!("{source:?}") })
    }

    async fn additional_metric(&self, _: String) -> Result<Option<Metrics>, CallError> {
        Ok(None)
    }

    async fn self_update(&self) -> CallError {
        CallError::Failed("no".into())
    }
}

struct Job;

impl crate::job::Served for Job {
    async fn log(&self, start: i64) -> Result<LogChunk, CallError> {
        Ok(LogChunk { bytes: Vec::new(), next: start })
    }

    async fn result(&self) -> Result<String, CallError> {
        Ok(String::new())
    }

    fn cancel(&self) {}

    fn released(&self) {}
}
