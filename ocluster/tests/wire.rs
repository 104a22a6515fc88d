//! Workers and clients over real connections.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ocluster::admin::AdminClient;
use ocluster::connect::Options;
use ocluster::job::{JobClient, LogChunk};
use ocluster::queue::QueueClient;
use ocluster::registration::RegistrationClient;
use ocluster::submission::SubmissionClient;
use ocluster::testing::{Call, Fault, Scheduler, Security};
use ocluster::uri::Server;
use ocluster::worker::{Metrics, MetricsSource, WorkerClient};
use ocluster::{
    Action, CallError, ConnectError, DockerBuild, Dockerfile, JobDescr, Secret, Session,
};
use tokio::sync::Notify;
use tokio::task::LocalSet;

/// Runs `test` as the programs run: on one thread, for a bounded time.
fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), test).await };
    LocalSet::new().block_on(&runtime, bounded).expect("the test ends in time")
}

async fn connect(uri: &ocluster::CapUri) -> Session {
    ocluster::connect(uri, &Options::default()).await.unwrap()
}

/// A job whose log is given and whose end is told.
#[derive(Default)]
struct ToyJob {
    log: &'static [u8],
    end: RefCell<Option<Result<String, CallError>>>,
    changed: Notify,
    cancelled: Cell<bool>,
    released: Cell<u32>,
}

impl ToyJob {
    fn finish(&self, end: Result<String, CallError>) {
        self.end.replace(Some(end));
        self.changed.notify_waiters();
    }

    async fn until_released(&self) {
        while self.released.get() == 0 {
            self.changed.notified().await;
        }
    }
}

impl ocluster::job::Served for ToyJob {
    async fn log(&self, start: i64) -> Result<LogChunk, CallError> {
        let start = usize::try_from(start).map_err(|_| CallError::Failed("negative".into()))?;
        let bytes = self.log[start..].iter().take(4).copied().collect::<Vec<_>>();
        Ok(LogChunk { next: (start + bytes.len()) as i64, bytes })
    }

    async fn result(&self) -> Result<String, CallError> {
        loop {
            let end = self.end.borrow().clone();
            match end {
                Some(end) => return end,
                None => self.changed.notified().await,
            }
        }
    }

    fn cancel(&self) {
        self.cancelled.set(true);
        self.finish(Err(CallError::Failed("Build cancelled".into())));
    }

    fn released(&self) {
        self.released.set(self.released.get() + 1);
        self.changed.notify_waiters();
    }
}

struct ToyWorker;

impl ocluster::worker::Served for ToyWorker {
    async fn metrics(&self, source: MetricsSource) -> Result<Metrics, CallError> {
        Ok(Metrics { content_type: "text/plain".into(), data: format!("{source:?}") })
    }

    async fn additional_metric(&self, source: String) -> Result<Option<Metrics>, CallError> {
        let metrics = Metrics { content_type: "x".into(), data: source.clone() };
        Ok((source == "known").then_some(metrics))
    }

    async fn self_update(&self) -> CallError {
        std::future::pending().await
    }
}

/// Registers a worker; keep what is returned.
async fn register(scheduler: &Scheduler, name: &str) -> Result<(Session, QueueClient), CallError> {
    let session = connect(scheduler.registration()).await;
    let worker = WorkerClient::serve(Rc::new(ToyWorker));
    let (queue, answer) = RegistrationClient::of(&session).register(name, worker, 2);
    answer.await?;
    Ok((session, queue))
}

async fn read_log(job: &JobClient) -> Vec<u8> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let chunk = job.log(at).await.unwrap();
        if chunk.bytes.is_empty() {
            return all;
        }
        assert_eq!(chunk.next, at + chunk.bytes.len() as i64);
        at = chunk.next;
        all.extend(chunk.bytes);
    }
}

/// A job from its submission to its end, and nothing left behind.
fn a_job_goes_round(security: Security) {
    let scheduler = Scheduler::start("pool-x", security);
    run(async {
        let (_session, queue) = register(&scheduler, "w1").await.unwrap();
        let client = connect(scheduler.submission()).await;
        let mut sent = JobDescr::obuilder("((from x))");
        sent.repository = "https://example.org/x.git".into();
        sent.commits = vec!["0123456789".repeat(4), "9876543210".repeat(4)];
        sent.cache_hint = "héllo".into();
        sent.secrets = vec![Secret { id: "token".into(), value: b"\xff\x01".to_vec() }];
        let ticket = SubmissionClient::of(&client).submit("pool-x", &sent, true).unwrap();
        let job = ticket.job();
        let toy = Rc::new(ToyJob { log: b"hello, world", ..ToyJob::default() });
        assert_eq!(queue.pop(JobClient::serve(toy.clone())).await.unwrap().unwrap(), sent);
        assert_eq!(read_log(&job).await, b"hello, world");
        toy.finish(Ok("id".into()));
        assert_eq!(job.result().await.unwrap(), "id");
        assert_eq!(toy.released.get(), 0, "it is still held");
        drop((job, ticket));
        toy.until_released().await;
        assert_eq!(toy.released.get(), 1);
        assert!(!toy.cancelled.get());
    });
    scheduler.wait_until("nothing is left", |live| {
        (live.connections, live.queues, live.tickets) == (0, 0, 0)
    });
    scheduler.check();
}

#[test]
fn a_job_goes_round_over_tls() {
    a_job_goes_round(Security::Tls);
}

#[test]
fn a_job_goes_round_over_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIP: connections over IPv6: there is none here");
        return;
    }
    a_job_goes_round(Security::TlsV6);
}

#[test]
fn a_job_goes_round_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    a_job_goes_round(Security::TlsUnix(dir.path().join("scheduler.sock")));
}

#[test]
fn a_job_goes_round_without_tls() {
    a_job_goes_round(Security::Insecure);
}

#[test]
fn a_server_with_another_key_is_turned_away() {
    let scheduler = Scheduler::start("x", Security::Tls);
    let mut uri = scheduler.registration().clone();
    uri.server = Server::Sha256([7; 32]);
    run(async {
        let error = ocluster::connect(&uri, &Options::default()).await.err().unwrap();
        assert!(matches!(error, ConnectError::WrongServer { .. }), "{error}");
        let (_, found) = error
            .to_string()
            .split_once("sha-256:")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(scheduler.registration().to_string().contains(found.split('`').next().unwrap()));
    });
    scheduler.check();
}

#[test]
fn a_wrong_service_is_refused() {
    let scheduler = Scheduler::start("x", Security::Tls);
    let mut uri = scheduler.registration().clone();
    uri.service[3] ^= 1;
    run(async {
        let session = connect(&uri).await;
        let worker = WorkerClient::serve(Rc::new(ToyWorker));
        let (_, answer) = RegistrationClient::of(&session).register("w1", worker, 1);
        let error = answer.await.err().unwrap().to_string();
        assert!(error.contains("not here"), "{error}");
    });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scheduler.check())).is_err());
}

#[test]
fn whoever_does_not_answer_is_not_waited_for_long() {
    run(async {
        // The port is taken and nobody accepts.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let options = Options { timeout: Duration::from_millis(200), ..Options::default() };
        let uri =
            |server: &str| format!("capnp://{server}@127.0.0.1:{port}/aGVsbG8").parse().unwrap();
        let pinned = uri("sha-256:0_tVPHQ3gz5vKNVwc_t0llFzCEPqqXLEbBDGEb1sBAI");
        let error = ocluster::connect(&pinned, &options).await.err().unwrap();
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
        drop(silent);
        let error = ocluster::connect(&pinned, &options).await.err().unwrap();
        assert!(matches!(error, ConnectError::Connect { .. }), "{error}");
    });
}

#[test]
fn a_name_that_is_taken_shows_in_the_answer_and_in_the_queue() {
    let scheduler = Scheduler::start("x", Security::Tls);
    run(async {
        let (_one, _queue) = register(&scheduler, "w1").await.unwrap();
        let session = connect(scheduler.registration()).await;
        let worker = WorkerClient::serve(Rc::new(ToyWorker));
        let (queue, answer) = RegistrationClient::of(&session).register("w1", worker, 1);
        let toy = Rc::new(ToyJob::default());
        let popped = queue.pop(JobClient::serve(toy.clone())).await.unwrap_err();
        assert_eq!(popped, CallError::Failed("Worker already registered!".into()));
        assert_eq!(answer.await.err().unwrap().to_string(), "Worker already registered!");
        toy.until_released().await;
    });
    scheduler.check();
}

#[test]
fn a_job_is_released_when_its_client_goes_though_calls_wait() {
    let scheduler = Scheduler::start("x", Security::Tls);
    run(async {
        let (_session, queue) = register(&scheduler, "w1").await.unwrap();
        let client = connect(scheduler.submission()).await;
        let ticket =
            SubmissionClient::of(&client).submit("x", &JobDescr::obuilder("()"), false).unwrap();
        let job = ticket.job();
        let toy = Rc::new(ToyJob::default());
        queue.pop(JobClient::serve(toy.clone())).await.unwrap().unwrap();
        let waiting = tokio::task::spawn_local(async move { job.result().await });
        tokio::task::yield_now().await;
        drop((client, ticket));
        assert!(waiting.await.unwrap().unwrap_err().is_disconnected());
        toy.until_released().await;
        assert_eq!(toy.released.get(), 1);
    });
    scheduler.check();
}

#[test]
fn a_wait_for_a_job_outlives_a_pause() {
    let scheduler = Scheduler::start("x", Security::Tls);
    run(async {
        let (_session, queue) = register(&scheduler, "w1").await.unwrap();
        let mut pop = Box::pin(queue.pop(JobClient::serve(Rc::new(ToyJob::default()))));
        assert!(futures::poll!(&mut pop).is_pending());
        queue.set_active(false).await.unwrap();
        let client = connect(scheduler.submission()).await;
        let ticket =
            SubmissionClient::of(&client).submit("x", &JobDescr::obuilder("()"), false).unwrap();
        let _job = ticket.job();
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut pop).await.is_err());
        queue.set_active(true).await.unwrap();
        assert_eq!(pop.await.unwrap().unwrap(), JobDescr::obuilder("()"));
    });
    scheduler.check();
}

#[test]
fn a_wait_that_is_called_off_takes_a_job_with_it() {
    let scheduler = Scheduler::start("x", Security::Tls);
    run(async {
        let (_session, queue) = register(&scheduler, "w1").await.unwrap();
        let toy = Rc::new(ToyJob::default());
        let mut pop = Box::pin(queue.pop(JobClient::serve(toy.clone())));
        assert!(futures::poll!(&mut pop).is_pending());
        queue.set_active(true).await.unwrap();
        drop(pop);
        let client = connect(scheduler.submission()).await;
        let ticket =
            SubmissionClient::of(&client).submit("x", &JobDescr::obuilder("()"), false).unwrap();
        let job = ticket.job();
        // Whoever follows it is led to the worker that no longer listens.
        job.cancel().await.unwrap();
        assert_eq!(scheduler.live().waiting, 0);
    });
    scheduler.check();
}

#[test]
fn a_lost_connection_ends_every_call_and_releases_every_job() {
    let scheduler = Scheduler::start("x", Security::Tls);
    scheduler.plan(Call::Pop, Fault::Drop);
    run(async {
        let (mut session, queue) = register(&scheduler, "w1").await.unwrap();
        let toy = Rc::new(ToyJob::default());
        let error = queue.pop(JobClient::serve(toy.clone())).await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
        session.lost().await;
        toy.until_released().await;
        assert!(queue.set_active(true).await.unwrap_err().is_disconnected());
    });
    scheduler.check();
}

#[test]
fn kinds_of_jobs_that_came_later_are_told_apart() {
    let scheduler = Scheduler::start("x", Security::Tls);
    run(async {
        let (_session, queue) = register(&scheduler, "w1").await.unwrap();
        let client = connect(scheduler.submission()).await;
        let submission = SubmissionClient::of(&client);
        let docker = DockerBuild {
            dockerfile: Dockerfile::Path("a/Dockerfile".into()),
            build_args: vec!["A=b".into()],
            squash: true,
            include_git: true,
            ulimit: vec!["nofile=1".into()],
            push_target: "r:t".into(),
            ..DockerBuild::default()
        };
        for action in [Action::Custom { kind: "day10".into() }, Action::Docker(docker)] {
            let descr = JobDescr { action, ..JobDescr::obuilder("") };
            let ticket = submission.submit("x", &descr, false).unwrap();
            let popped =
                queue.pop(JobClient::serve(Rc::new(ToyJob::default()))).await.unwrap().unwrap();
            assert_eq!(popped, descr);
            drop(ticket);
        }
        let _later =
            scheduler.submit(&JobDescr { action: Action::Unknown(9), ..JobDescr::obuilder("") });
        let popped =
            queue.pop(JobClient::serve(Rc::new(ToyJob::default()))).await.unwrap().unwrap();
        assert_eq!(popped.action, Action::Unknown(9));
    });
    scheduler.check();
}

#[test]
fn administrators_see_the_pool_and_its_workers() {
    let scheduler = Scheduler::start("x", Security::Tls);
    run(async {
        let (_session, _queue) = register(&scheduler, "w1").await.unwrap();
        let session = connect(scheduler.admin()).await;
        let admin = AdminClient::of(&session);
        assert_eq!(admin.pools().await.unwrap(), ["x"]);
        let pool = admin.pool("x");
        assert_eq!(pool.show().await.unwrap(), "queue: 0\nw1 (2)\n");
        pool.set_active("w1", false).await.unwrap();
        let workers = pool.workers().await.unwrap();
        assert_eq!(
            (&*workers[0].name, workers[0].active, workers[0].connected),
            ("w1", false, true)
        );
        let error = admin.pool("y").show().await.unwrap_err();
        assert_eq!(error.to_string(), "Unknown pool \"y\"");
        let worker = pool.worker("w1");
        assert_eq!(worker.metrics(MetricsSource::Host).await.unwrap().data, "Host");
        assert_eq!(worker.additional_metric("known").await.unwrap().unwrap().data, "known");
        assert_eq!(worker.additional_metric("other").await.unwrap(), None);
    });
    scheduler.check();
}
