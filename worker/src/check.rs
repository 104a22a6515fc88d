//! `obuild-worker check`: whether a scheduler can be reached and would register a worker.

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::ValueEnum;
use obuilder_core::error::chain;
use ocluster::registration::RegistrationClient;
use ocluster::uri::Server;
use ocluster::worker::{Metrics, MetricsSource, Served, WorkerClient};
use ocluster::{CallError, Session, connect};
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

/// Whether a worker of the name is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expected {
    /// There is none: the name is free
    Absent,
    /// There is one
    Present,
    /// There may be one
    Any,
}

/// What is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Question {
    /// The pool's `.cap` file
    cap: PathBuf,
    /// The name to register by
    #[arg(long, default_value = "obuild-worker-check")]
    name: String,
    /// Whether a worker of this name is registered already
    #[arg(long, value_name = "WHAT", default_value = "absent")]
    expect: Expected,
}

/// Says what works, one line each, and stops at what does not.
pub(crate) fn run(question: &Question) -> Result<ExitCode, Stop> {
    crate::trace("warn", None);
    let cap = &question.cap;
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
        register(&session, question).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn register(session: &Session, question: &Question) -> Result<(), Stop> {
    let Question { name, expect, .. } = question;
    let registration = RegistrationClient::of(session);
    let (queue, answer) = registration.register(name, WorkerClient::serve(Rc::new(Visitor)), 1);
    let answered = tokio::time::timeout(PATIENCE, answer).await;
    match answered.map_err(|_| Stop::system("the server does not answer"))? {
        Ok(_) => {}
        Err(error) if is_taken(&error) && *expect != Expected::Absent => {
            say(&format!("ok: it registers workers, and has one that is called `{name}`"));
            return Ok(());
        }
        Err(error) => {
            let why = format!("the server does not register `{name}`: {error}");
            return Err(Stop::system(why));
        }
    }
    let silent = "the queue does not answer";
    let paused = tokio::time::timeout(PATIENCE, queue.set_active(false)).await;
    paused
        .map_err(|_| Stop::system(silent))?
        .map_err(|error| Stop::system(format!("{silent}: {error}")))?;
    if *expect == Expected::Present {
        return Err(Stop::system(format!("the server has no worker that is called `{name}`")));
    }
    say(&format!("ok: it registers workers: `{name}` was there for a moment"));
    say(&format!(
        "note: the scheduler goes on listing `{name}`, as disconnected, until one comes, or until it is told to forget it: \
         ocluster-admin --connect admin.cap forget POOL {name}"
    ));
    Ok(())
}

/// Whether the name is another's.
fn is_taken(error: &CallError) -> bool {
    matches!(error, CallError::Failed(why) if why.contains("already registered"))
}
