//! `obuild submit` and `obuild cluster`, with a strict scheduler and a worker of a few lines.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use common::World;
use ocluster::connect::Options;
use ocluster::job::{JobClient, LogChunk};
use ocluster::registration::RegistrationClient;
use ocluster::testing::{Scheduler, Security};
use ocluster::worker::{Metrics, MetricsSource, WorkerClient};
use ocluster::{CallError, CapUri, JobDescr, cap_file};
use tokio::sync::Notify;
use tokio::task::LocalSet;

/// A job that says something and ends, or never does.
struct Job {
    result: Option<Result<String, CallError>>,
    released: Cell<bool>,
    changed: Notify,
}

impl ocluster::job::Served for Job {
    async fn log(&self, start: i64) -> Result<LogChunk, CallError> {
        let text = b"one\ntwo\n";
        let start = usize::try_from(start).unwrap();
        if start == text.len() && self.result.is_none() {
            return std::future::pending().await;
        }
        let bytes = text[start..].iter().take(3).copied().collect::<Vec<_>>();
        Ok(LogChunk { next: (start + bytes.len()) as i64, bytes })
    }

    async fn result(&self) -> Result<String, CallError> {
        match &self.result {
            Some(result) => result.clone(),
            None => std::future::pending().await,
        }
    }

    fn cancel(&self) {}

    fn released(&self) {
        self.released.set(true);
        self.changed.notify_waiters();
    }
}

struct Nothing;

impl ocluster::worker::Served for Nothing {
    async fn metrics(&self, _: MetricsSource) -> Result<Metrics, CallError> {
        Err(CallError::Failed("none".into()))
    }

    async fn additional_metric(&self, _: String) -> Result<Option<Metrics>, CallError> {
        Ok(None)
    }

    async fn self_update(&self) -> CallError {
        CallError::Failed("no".into())
    }
}

/// Registers as `w1`, does one job with that end, and gives its description once it is released.
fn do_one(
    uri: CapUri,
    result: Option<Result<String, CallError>>,
) -> std::thread::JoinHandle<JobDescr> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = async {
            let session = ocluster::connect(&uri, &Options::default()).await.unwrap();
            let worker = WorkerClient::serve(Rc::new(Nothing));
            let (queue, answer) = RegistrationClient::of(&session).register("w1", worker, 1);
            answer.await.unwrap();
            let job = Rc::new(Job { result, released: Cell::new(false), changed: Notify::new() });
            let descr = queue.pop(JobClient::serve(job.clone())).await.unwrap().unwrap();
            while !job.released.get() {
                job.changed.notified().await;
            }
            descr
        };
        let bounded = async { tokio::time::timeout(Duration::from_secs(60), work).await };
        LocalSet::new().block_on(&runtime, bounded).expect("the job comes and goes")
    })
}

fn cap(world: &World, name: &str, uri: &CapUri) -> PathBuf {
    let path = world.path(name);
    cap_file::write(&path, uri).unwrap();
    path
}

#[test]
fn a_submitted_job_is_followed_to_its_end() {
    let (world, scheduler) = (World::new(), Scheduler::start("p", Security::Tls));
    let cap = cap(&world, "submission.cap", scheduler.submission()).display().to_string();
    let spec = world.spec("((from x))").display().to_string();
    let token = world.write("token", "secret").display().to_string();
    let worker = do_one(scheduler.registration().clone(), Some(Ok("id".into())));
    let secret = format!("t:{token}");
    let args = [
        "submit",
        "--connect",
        &cap,
        "--pool",
        "p",
        "--secret",
        &secret,
        "--urgent",
        "--cache-hint",
        "h",
    ];
    let done = world.run([&args[..], &[&spec, "https://x/y.git", "0123", "4567"]].concat());
    let done = done.success();
    assert_eq!(done.stdout, "one\ntwo\nResult: \"id\"\n");
    let descr = worker.join().unwrap();
    assert_eq!((&*descr.repository, &*descr.cache_hint), ("https://x/y.git", "h"));
    assert_eq!(descr.commits, ["0123", "4567"]);
    assert_eq!(descr.secrets[0].value, b"secret");
    scheduler.check();
}

#[test]
fn a_job_that_fails_is_told_from_a_scheduler_that_does() {
    let (world, mut scheduler) = (World::new(), Scheduler::start("p", Security::Tls));
    let cap = cap(&world, "submission.cap", scheduler.submission()).display().to_string();
    let spec = world.spec("((from x))").display().to_string();
    let failed = Some(Err(CallError::Failed("Build failed".into())));
    let worker = do_one(scheduler.registration().clone(), failed);
    let submit = |pool: &str| world.run(["submit", "-c", &cap, "--pool", pool, &spec]);
    let done = submit("p").code(1).says("the job failed: Build failed");
    assert_eq!(done.stdout, "one\ntwo\n");
    worker.join().unwrap();
    submit("q").code(3).says("Pool ID \"q\" not one of {p}");
    scheduler.check();
    scheduler.stop();
    submit("p").code(3).says("error: failed to connect to `127.0.0.1:");
}

#[test]
fn an_interrupt_cancels_the_job() {
    let (world, scheduler) = (World::new(), Scheduler::start("p", Security::Tls));
    let cap = cap(&world, "submission.cap", scheduler.submission()).display().to_string();
    let spec = world.spec("((from x))").display().to_string();
    let worker = do_one(scheduler.registration().clone(), None);
    let mut running = world.start(["submit", "-c", &cap, "--pool", "p", &spec]);
    running.wait_for("two\n");
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.finish().code(130);
    worker.join().unwrap();
    scheduler.check();
}

#[test]
fn a_pool_is_shown_with_its_workers() {
    let (world, scheduler) = (World::new(), Scheduler::start("p", Security::Tls));
    let admin = cap(&world, "admin.cap", scheduler.admin()).display().to_string();
    let submission = cap(&world, "submission.cap", scheduler.submission()).display().to_string();
    let worker = do_one(scheduler.registration().clone(), Some(Ok(String::new())));
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    assert_eq!(world.run(["cluster", "show", "-c", &admin]).success().stdout, "p\n");
    let shown = world.run(["cluster", "show", "-c", &admin, "p"]).success().stdout;
    assert_eq!(shown, "queue: 0\nw1 (1)\nworker w1: active\n");
    let spec = world.spec("((from x))").display().to_string();
    let done = world.run(["submit", "-c", &submission, "--pool", "p", &spec]).success();
    assert_eq!(done.stdout, "one\ntwo\n", "an empty result is not shown");
    worker.join().unwrap();
    world.run(["cluster", "show", "-c", &admin, "q"]).code(3).says("Unknown pool \"q\"");
    scheduler.check();
}
