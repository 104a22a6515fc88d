//! `obuild-worker check`: whether a scheduler can be reached and would register a worker.

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use obuild_worker::text::chain;
use ocluster::registration::RegistrationClient;
use ocluster::uri::Server;
use ocluster::worker::{Metrics, MetricsSource, Served, WorkerClient};
use ocluster::{CallError, connect};
use tokio::task::LocalSet;

use crate::settings::read_cap;
use crate::{Stop, say};

/// Longest time for each part.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that is there only to be registered.
struct Visitor;

impl Served for Visitor {
    async fn metrics(&self, _: MetricsSource) -> Result<Metrics, CallError> {
        Ok(Metrics { content_type: "text/plain".into(), data: String::new() })
    }

    async fn additional_metric(&self, _: String) -> Result<Option<Metrics>, CallError> {
        Ok(None)
    }

    async fn self_update(&self) -> CallError {
        CallError::Failed("this is only a check".into())
    }
}

/// Says what works, one line each, and stops at what does not.
pub(crate) fn run(cap: &Path, name: &str) -> Result<ExitCode, Stop> {
    crate::trace("warn", None);
    let uri = read_cap(cap)?;
    say(&format!("ok: `{}` names a service at {}", cap.display(), uri.address));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Stop::system(format!("failed to begin: {error}")))?;
    LocalSet::new().block_on(&runtime, async {
        let options = connect::Options { timeout: PATIENCE, ..connect::Options::default() };
        let session = connect(&uri, &options).await.map_err(|error| Stop::system(chain(&error)))?;
        say(match uri.server {
            Server::Sha256(_) => "ok: the server has the public key that the capability names",
            Server::Insecure => "ok: connected, without TLS: anybody on the way may listen",
        });
        let registration = RegistrationClient::of(&session);
        let (queue, answer) = registration.register(name, WorkerClient::serve(Rc::new(Visitor)), 1);
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        answered.map_err(|_| Stop::system("the server does not answer"))?.map_err(|error| {
            Stop::system(format!("the server does not register `{name}`: {error}"))
        })?;
        let paused = tokio::time::timeout(PATIENCE, queue.set_active(false)).await;
        paused
            .map_err(|_| Stop::system("the queue does not answer"))?
            .map_err(|error| Stop::system(format!("the queue does not answer: {error}")))?;
        say(&format!("ok: it registers workers: `{name}` was there for a moment"));
        say(&format!(
            "note: the scheduler goes on listing `{name}` as disconnected until it is told to forget it: \
             ocluster-admin --connect admin.cap forget POOL {name}"
        ));
        Ok(ExitCode::SUCCESS)
    })
}
