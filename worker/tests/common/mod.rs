//! An agent on a thread of its own, and an executor that does what a job's spec says.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use obuild_worker::agent::{Agent, Config, Control, Executor, Leaving};
use obuild_worker::job::Outcome;
use obuild_worker::job_log::JobLog;
use obuild_worker::metrics::Metrics;
use obuilder_core::Cancel;
use ocluster::connect::Options;
use ocluster::job::JobClient;
use ocluster::submission::{SubmissionClient, TicketClient};
use ocluster::testing::Scheduler;
use ocluster::{Action, CapUri, ConnectError, JobDescr, Session};
use tokio::task::LocalSet;

/// Runs `test` as the programs run: on one thread, for a bounded time.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(300), test).await };
    LocalSet::new().block_on(&runtime, bounded).expect("the test ends in time")
}

/// Does what the spec says: `print TEXT`, `flood BYTES`, `fail`, `wait` (until it is cancelled), `panic`; anything else
/// succeeds with the spec as its output.
#[derive(Default)]
pub struct Script {
    pub now: AtomicUsize,
    pub most: AtomicUsize,
}

impl Executor for Script {
    fn run(&self, job: &JobDescr, log: &JobLog, cancel: &Cancel) -> Outcome {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let outcome = self.act(job, log, cancel);
        self.now.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

impl Script {
    fn act(&self, job: &JobDescr, log: &JobLog, cancel: &Cancel) -> Outcome {
        let Action::Obuilder { spec } = &job.action else {
            return Outcome::Failed("Unsupported custom job".into());
        };
        let spec = String::from_utf8(spec.clone()).unwrap();
        let (word, rest) = spec.split_once(' ').unwrap_or((&spec, ""));
        match word {
            "print" => log.write(rest.as_bytes()),
            "flood" => {
                let mut left: usize = rest.parse().unwrap();
                while left > 0 && !cancel.is_cancelled() {
                    let piece = left.min(1 << 16);
                    log.write(&vec![b'x'; piece]);
                    left -= piece;
                }
            }
            "fail" => return Outcome::Failed("it broke".into()),
            "wait" => {
                log.write(b"waiting\n");
                cancel.wait_timeout(Duration::from_secs(60));
            }
            "panic" => {
                self.now.fetch_sub(1, Ordering::SeqCst);
                panic!("as planned");
            }
            _ => {}
        }
        if cancel.is_cancelled() { Outcome::Cancelled } else { Outcome::Succeeded(spec.clone()) }
    }
}

/// What a test may have a running agent do.
pub type Order = Box<dyn FnOnce(&Control) + Send>;

/// An agent on a thread of its own.
pub struct Running<E = Script> {
    pub executor: Arc<E>,
    pub metrics: Arc<Metrics>,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
    left: mpsc::Receiver<Leaving>,
    _dir: tempfile::TempDir,
}

pub fn config(uri: &CapUri, name: &str, capacity: u32) -> Config {
    Config {
        name: name.into(),
        capacity,
        scheduler: uri.clone(),
        connect: Options { timeout: Duration::from_secs(5), ..Options::default() },
        reconnect: (Duration::from_millis(5), Duration::from_millis(50)),
        // Each worker gets one of its own.
        log_dir: PathBuf::new(),
        log_cap: 1 << 30,
        ended_logs_cap: 1 << 32,
        job_timeout: None,
        linger: Duration::from_secs(5),
        weights: Default::default(),
        patience: Duration::from_secs(20),
        additional_metrics: Vec::new(),
    }
}

impl Running<Script> {
    pub fn start(scheduler: &Scheduler, name: &str, capacity: u32) -> Self {
        Self::with(config(scheduler.registration(), name, capacity), Script::default())
    }
}

impl<E: Executor> Running<E> {
    pub fn with(mut config: Config, executor: E) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if config.log_dir.as_os_str().is_empty() {
            config.log_dir = dir.path().into();
        }
        let (executor, metrics) = (Arc::new(executor), Arc::new(Metrics::default()));
        let (orders, mut received) = tokio::sync::mpsc::unbounded_channel::<Order>();
        let (leave, left) = mpsc::channel();
        let thread = std::thread::spawn({
            let (executor, metrics) = (executor.clone(), metrics.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                LocalSet::new().block_on(&runtime.unwrap(), async move {
                    let agent = Agent::new(config, executor, metrics);
                    let control = agent.control();
                    tokio::task::spawn_local(async move {
                        while let Some(order) = received.recv().await {
                            order(&control);
                        }
                        control.stop();
                    });
                    let _ = leave.send(agent.run().await);
                });
            }
        });
        Self { executor, metrics, orders, thread: Some(thread), left, _dir: dir }
    }

    pub fn order(&self, order: impl FnOnce(&Control) + Send + 'static) {
        let _ = self.orders.send(Box::new(order));
    }

    /// Waits until it has left.
    pub fn left(&self) -> Leaving {
        self.left.recv_timeout(Duration::from_secs(120)).expect("it leaves")
    }

    pub fn has_left(&self) -> bool {
        self.left.try_recv().is_ok()
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        self.orders = tokio::sync::mpsc::unbounded_channel().0;
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been printed.
            let _ = thread.join();
        }
    }
}

/// A client of a scheduler.
pub struct Client {
    pub session: Session,
    pub submission: SubmissionClient,
    pool: String,
}

impl Client {
    pub async fn new(scheduler: &Scheduler, pool: &str) -> Self {
        Self::connect(scheduler.submission(), pool).await.unwrap()
    }

    pub async fn connect(uri: &CapUri, pool: &str) -> Result<Self, ConnectError> {
        let session = ocluster::connect(uri, &Options::default()).await?;
        let submission = SubmissionClient::of(&session);
        Ok(Self { session, submission, pool: pool.into() })
    }

    pub fn submit(&self, spec: &str) -> Submitted {
        self.submit_job(&JobDescr::obuilder(spec))
    }

    pub fn submit_job(&self, descr: &JobDescr) -> Submitted {
        let ticket = self.submission.submit(&self.pool, descr, false).unwrap();
        Submitted { job: ticket.job(), _ticket: ticket }
    }
}

/// A job for as long as this lives.
pub struct Submitted {
    job: JobClient,
    _ticket: TicketClient,
}

impl std::ops::Deref for Submitted {
    type Target = JobClient;

    fn deref(&self) -> &JobClient {
        &self.job
    }
}

/// Everything that a job says, to its end.
pub async fn whole_log(job: &JobClient) -> String {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let chunk = job.log(at).await.unwrap();
        if chunk.bytes.is_empty() {
            return String::from_utf8(all).unwrap();
        }
        at = chunk.next;
        all.extend(chunk.bytes);
    }
}

/// Looks again and again, for a bounded time, whether something has come true.
pub fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !wanted() {
        assert!(Instant::now() < end, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same for a test that is busy with connections meanwhile.
pub async fn until(what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !wanted() {
        assert!(Instant::now() < end, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Numbers without end, the same in every run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % bound as u64).unwrap()
    }
}
