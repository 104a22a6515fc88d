//! What a worker costs: a cached job, many of them, a log's way to its reader, and doing nothing.
//!
//! `cargo build --release -p obuild && cargo bench -p obuild-worker` (a word such as `-- log` chooses figures). The scheduler is the
//! one of the tests, in this process; all speak TLS. Each figure comes with its bound.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/program.rs"]
mod program;
#[path = "../../tests/common/uid.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod uid;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Client, run};
use ocluster::testing::{Scheduler, Security};
use program::Place;

const ROUNDS: usize = 60;
const QUEUED: usize = 1000;
/// Bytes of the log that is streamed.
const LOG: u64 = 400 << 20;
const SPEC: &str = "((from scratch) (shell /bin/sh -c) (run (shell \"echo hello\")))";

fn main() {
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let all: [(&str, fn()); 4] = [("cached", cached), ("many", many), ("log", log), ("idle", idle)];
    for (name, figure) in all {
        if chosen.is_empty() || chosen.iter().any(|word| word == name) {
            figure();
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The command `obuild`, built beside this worker.
fn obuild() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_obuild-worker")).with_file_name("obuild");
    if !path.exists() {
        println!("SKIP: a job over a bare build: `cargo build --release -p obuild` makes `obuild`");
        return None;
    }
    Some(path)
}

/// One cached job, submit to result, in turns with `obuild build` of the same spec in a store of its own.
fn cached() {
    let Some(obuild) = obuild() else { return };
    let scheduler = Scheduler::start("p", Security::Tls);
    let (place, bare) = (Place::new(&scheduler, 1), Place::new(&scheduler, 1));
    let _worker = place.start(&["--verbosity", "error"]);
    let spec = bare.path("spec.scm");
    std::fs::write(&spec, SPEC).unwrap();
    let build = || {
        let began = Instant::now();
        let mut command = Command::new(&obuild);
        command.arg("build").arg(&spec);
        command.arg("--store").arg(format!("rsync:{}", bare.path("store").display()));
        command.args(["--user-prefix", uid::PREFIX, "--uid", &bare.uid().to_string()]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success());
        began.elapsed()
    };
    let mut times = [const { Vec::new() }; 2];
    run(async {
        let client = Client::new(&scheduler, "p").await;
        client.submit(SPEC).result().await.unwrap();
        build();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            client.submit(SPEC).result().await.unwrap();
            times[0].push(began.elapsed());
            times[1].push(build());
        }
    });
    let [job, build] = times.map(median);
    println!("a cached job, submit to result  {job:>10.2?}");
    println!("obuild build of the same spec   {build:>10.2?}");
    let more = job.as_secs_f64() * 1e3 - build.as_secs_f64() * 1e3;
    println!("the job over the build          {more:>7.2} ms  (bound: 15 ms more)");
}

/// A thousand cached jobs, all submitted at once, at capacity 8.
fn many() {
    let scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&["--capacity", "8", "--verbosity", "error"]);
    let rate = run(async {
        let client = Client::new(&scheduler, "p").await;
        client.submit(SPEC).result().await.unwrap();
        let began = Instant::now();
        let jobs: Vec<_> = (0..QUEUED).map(|_| client.submit(SPEC)).collect();
        for job in jobs {
            job.result().await.unwrap();
        }
        QUEUED as f64 / began.elapsed().as_secs_f64()
    });
    println!("cached jobs at capacity 8       {rate:>10.0} a second  (bound: 300)");
}

/// A log that a step writes as fast as it can, read by one client through the scheduler, over what the same command gives a reader
/// at the other end of a pipe.
fn log() {
    let scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&["--verbosity", "error"]);
    let mut rates = [const { Vec::new() }; 2];
    for round in 0..5 {
        let command =
            format!("yes 'line of round {round}, as long as most lines are' | head -c {LOG}");
        let began = Instant::now();
        let piped = Command::new("/bin/sh").args(["-c", &command]).output().unwrap();
        rates[0].push(piped.stdout.len() as f64 / 1e6 / began.elapsed().as_secs_f64());
        rates[1].push(run(async {
            let client = Client::new(&scheduler, "p").await;
            let began = Instant::now();
            let spec = format!("((from scratch) (shell /bin/sh -c) (run (shell \"{command}\")))");
            let job = client.submit(&spec);
            let (mut at, mut bytes) = (0, 0);
            loop {
                let chunk = job.log(at).await.unwrap();
                if chunk.bytes.is_empty() {
                    break;
                }
                (at, bytes) = (chunk.next, bytes + chunk.bytes.len() as u64);
            }
            assert!(bytes > LOG);
            bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
        }));
    }
    let [piped, streamed] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!("the same command to a pipe      {piped:>10.0} MB/s");
    println!("a log to one client             {streamed:>10.0} MB/s  (bound: 200)");
}

/// A registered worker that has nothing to do.
fn idle() {
    let scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 1);
    let worker = place.start(&["--obuilder-healthcheck", "600"]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    // Threads that had something to do once go when they have waited for ten seconds.
    std::thread::sleep(Duration::from_secs(15));
    let before = worker.switches();
    std::thread::sleep(Duration::from_secs(20));
    let after = worker.switches();
    let more = |(thread, count): (_, &u64)| count - before.get(thread).unwrap_or(&0);
    let switches: u64 = after.iter().map(more).sum();
    let resident = worker.resident() as f64 / 1e6;
    println!("an idle worker's memory         {resident:>10.1} MB    (bound: 20)");
    println!("its wake-ups in 20 s            {switches:>10}       (bound: 0 beyond keepalive)");
}
