//! Many jobs, impatient clients, killed workers and schedulers: every job has one end, its log is whole, and nothing is left.
//!
//! `OBUILD_SOAK_SECONDS` says how long the soak takes (three minutes). An hour of it in a release build:
//! `OBUILD_SOAK_SECONDS=3600 cargo test --release -p obuild-worker --test storm soak`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops where it fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "../../tests/common/uid.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod uid;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Client, Numbers, Submitted, eventually, run};
use nix::sys::signal::Signal;
use ocluster::testing::{Scheduler, Security};
use ocluster::{CallError, CapUri};
use program::Place;

/// How a job ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Succeeded,
    Failed,
    Cancelled,
    /// The worker or the scheduler was lost under it.
    Lost,
}

/// A job that is not like the others of its kind.
struct Kind {
    command: String,
    /// What its log says when it gets to its end.
    output: String,
    status: u8,
}

fn kind(number: usize) -> Kind {
    let kind = |command: String, output: String| Kind { command, output, status: 0 };
    match number % 5 {
        0 => kind(format!("echo {number}; sleep 0.05"), format!("{number}\n")),
        1 => kind("echo the same for all".into(), "the same for all\n".into()),
        2 => Kind { status: 3, ..kind(format!("echo {number}; exit 3"), format!("{number}\n")) },
        3 => {
            let mut output = String::new();
            (1..=20_000).for_each(|line| writeln!(output, "{line}").unwrap());
            kind(format!("seq 1 20000; echo {number}"), output + &format!("{number}\n"))
        }
        _ => kind(format!("sleep 0.{}; echo {number} >file", number % 9), String::new()),
    }
}

fn spec(kind: &Kind) -> String {
    format!("((from scratch) (shell /bin/sh -c) (run (shell \"{}\")))", kind.command)
}

/// Follows a job to its one end, and checks that log and result agree.
async fn follow(job: &Submitted, kind: &Kind) -> End {
    let (mut log, mut at) = (Vec::new(), 0);
    let complete = loop {
        match job.log(at).await {
            Ok(chunk) if chunk.bytes.is_empty() => break true,
            Ok(chunk) => {
                assert_eq!(chunk.next, at + chunk.bytes.len() as i64);
                at = chunk.next;
                log.extend(chunk.bytes);
            }
            Err(_) => break false,
        }
    };
    let log = String::from_utf8(log).unwrap();
    let result = job.result().await;
    let end = match &result {
        Ok(id) => {
            assert_eq!(id.len(), 64, "{id}");
            End::Succeeded
        }
        Err(CallError::Failed(why)) if why == "Build failed" => End::Failed,
        Err(CallError::Failed(why)) if why == "Build cancelled" => End::Cancelled,
        Err(_) => End::Lost,
    };
    if complete && end != End::Lost {
        let again = job.result().await;
        assert!(
            again == result || again.is_err_and(|error| error.is_disconnected()),
            "one end alone"
        );
        whole(&log, end, kind);
    }
    end
}

/// Checks that a log has its beginning, its end and, unless somebody cancelled, all between.
fn whole(log: &str, end: End, kind: &Kind) {
    let shown = if log.len() < 5000 { log } else { &log[log.len() - 1000..] };
    let (command, last) = (&kind.command, log.lines().last().unwrap_or_default());
    assert!(log.starts_with("Building on w1\n"), "{command}: {shown}");
    match end {
        End::Cancelled => assert_eq!(last, "Job cancelled", "{command}: {shown}"),
        End::Succeeded => assert_eq!(last, "Job succeeded", "{command}: {shown}"),
        _ => assert!(last.ends_with("failed with exit status 3"), "{command}: {shown}"),
    }
    if end != End::Cancelled {
        assert_eq!(end == End::Failed, kind.status != 0, "{command}: {shown}");
        assert!(log.contains(&kind.output), "{command}: {shown}");
    }
}

/// What a storm is like.
struct Storm {
    jobs: usize,
    clients: usize,
    /// Added to the numbers of its jobs.
    first: usize,
}

/// A connection, however long the scheduler is away.
async fn connected(uri: &CapUri) -> Client {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match Client::connect(uri, "p").await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "no scheduler: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Does jobs for clients at once, some of which lose patience. `left` counts down.
async fn storm(uri: &CapUri, storm: Storm, left: Rc<Cell<usize>>) -> HashMap<End, usize> {
    let ends = Rc::new(RefCell::new(HashMap::<End, usize>::new()));
    let Storm { jobs, clients, first } = storm;
    left.set(jobs);
    let tasks = (0..clients).map(|client| {
        let (ends, uri, left) = (ends.clone(), uri.clone(), left.clone());
        tokio::task::spawn_local(async move {
            let mut numbers = Numbers::new((first + client) as u64);
            let mut connection = connected(&uri).await;
            for number in (client..jobs).step_by(clients) {
                let kind = kind(first + number);
                let job = connection.submit(&spec(&kind));
                if numbers.below(5) == 0 {
                    tokio::time::sleep(Duration::from_millis(numbers.below(80) as u64)).await;
                    // It may have ended already, or its worker may be lost.
                    let _ = job.cancel().await;
                }
                let end = follow(&job, &kind).await;
                *ends.borrow_mut().entry(end).or_default() += 1;
                left.set(left.get() - 1);
                drop(job);
                if end == End::Lost {
                    connection = connected(&uri).await;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    ends.take()
}

#[test]
fn two_hundred_jobs_of_twenty_clients_have_one_end_each() {
    let scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 2);
    let worker = place.start(&["--capacity", "4"]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    let descriptors = worker.descriptors();
    let all = Storm { jobs: 200, clients: 20, first: 0 };
    let ends = run(storm(scheduler.submission(), all, Rc::default()));
    assert_eq!(ends.values().sum::<usize>(), 200);
    assert_eq!(ends.get(&End::Lost), None, "{ends:?}");
    assert!(ends[&End::Succeeded] > 80 && ends[&End::Failed] > 15, "{ends:?}");
    scheduler.wait_until("all clients have gone", |live| {
        (live.connections, live.tickets, live.waiting) == (1, 0, 0)
    });
    // The store and the index open a few that they keep.
    eventually("descriptors are as before", || worker.descriptors() <= descriptors + 4);
    eventually("nothing runs", || place.processes().is_empty());
    place.assert_clean();
    scheduler.check();
}

#[test]
fn workers_and_schedulers_may_die_in_a_storm() {
    let mut scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 2);
    let mut worker = place.start(&["--capacity", "4"]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    let descriptors = worker.descriptors();
    let uri = scheduler.submission().clone();
    let ends = run(async {
        let left = Rc::new(Cell::new(0));
        let clients = storm(&uri, Storm { jobs: 200, clients: 20, first: 0 }, left.clone());
        let deaths = async {
            // Each time some more jobs have ended.
            for (at, deed) in [(180, 0), (150, 1), (120, 2), (90, 0), (60, 1), (30, 2)] {
                while left.get() > at {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                match deed {
                    0 => {
                        worker.signal(Signal::SIGKILL);
                        worker.ended();
                        worker = place.start(&["--capacity", "4"]);
                    }
                    1 => {
                        scheduler.stop();
                        scheduler.start_again();
                    }
                    _ => scheduler.drop_connections(),
                }
            }
        };
        tokio::join!(clients, deaths).0
    });
    assert_eq!(ends.values().sum::<usize>(), 200, "{ends:?}");
    // Each death can take at most one job from each client with it.
    assert!(ends[&End::Succeeded] > 20, "{ends:?}");
    eprintln!("{ends:?}");
    scheduler.wait_until("the last worker is there alone", |live| {
        (live.connections, live.tickets, live.queues) == (1, 0, 1)
    });
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job =
            client.submit("((from scratch) (shell /bin/sh -c) (run (shell \"echo calm again\")))");
        job.result().await.unwrap();
    });
    // The last one has lost the scheduler twice.
    eventually("descriptors are as before", || worker.descriptors() <= descriptors + 4);
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().code(), Some(0));
    eventually("nothing runs", || place.processes().is_empty());
    place.assert_clean();
    scheduler.check();
}

/// What a worker holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    resident: u64,
    threads: usize,
    /// Files on the disk that are no results.
    files: usize,
}

/// Jobs that differ.
const DIFFERENT: usize = 1000;
/// After so many rounds hardly any of them was cancelled each time: the store has all the results that it will have.
const SETTLED: usize = 3 * DIFFERENT / 40;

#[test]
fn a_soak_leaves_nothing_behind() {
    let seconds = std::env::var("OBUILD_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(180));
    let mut scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 2);
    let worker = place.start(&["--capacity", "4", "--verbosity", "error"]);
    let uri = scheduler.submission().clone();
    let (mut rounds, mut total) = (0, HashMap::<End, usize>::new());
    let (mut first, mut stored) = (None, None);
    // A few rounds until all is there that comes once, and some more to compare with.
    while rounds < 6 || Instant::now() < end {
        let all = Storm { jobs: 40, clients: 8, first: rounds * 40 % DIFFERENT };
        let ends = run(async {
            let left = Rc::new(Cell::new(0));
            let (jobs, death) = (storm(&uri, all, left.clone()), async {
                while rounds % 3 == 2 && left.get() > 20 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                match rounds % 6 {
                    2 => scheduler.drop_connections(),
                    5 => {
                        scheduler.stop();
                        scheduler.start_again();
                    }
                    _ => {}
                }
            });
            tokio::join!(jobs, death).0
        });
        assert_eq!(ends.values().sum::<usize>(), 40, "{ends:?}");
        ends.into_iter().for_each(|(end, count)| *total.entry(end).or_default() += count);
        scheduler.wait_until("all clients have gone", |live| {
            (live.connections, live.tickets, live.waiting, live.queues) == (1, 0, 0, 1)
        });
        eventually("nothing runs", || place.processes().is_empty());
        eventually("no job's files are left", || place.left_over().is_empty());
        rounds += 1;
        if rounds == 4 {
            first = Some((held(&worker, &place), place.bytes("state")));
        }
        if rounds == SETTLED {
            stored = Some(place.bytes("store"));
        }
    }
    let ((first, state), last) = (first.unwrap(), held(&worker, &place));
    eprintln!("{rounds} rounds, {total:?}; after four {first:?}, at the end {last:?}");
    assert!(last.descriptors <= first.descriptors + 4, "{first:?}, then {last:?}");
    // Those of the pool go when they have had nothing to do for ten seconds.
    eventually("threads are as before", || worker.threads() <= first.threads + 2);
    let state = (state, place.bytes("state"));
    assert!(state.1 <= state.0 + (64 << 10), "the state directory grows: {state:?}");
    if let Some(stored) = stored.map(|stored| (stored, place.bytes("store"))) {
        assert!(stored.1 <= stored.0 + (4 << 20), "the store grows: {stored:?}");
    }
    assert!(last.resident <= first.resident * 5 / 4 + (16 << 20), "{first:?}, then {last:?}");
    assert!(last.files <= first.files + 16, "{first:?}, then {last:?}");
    scheduler.check();
}

/// What it holds once it has nothing to do.
fn held(worker: &program::Worker, place: &Place) -> Held {
    let files = place.files();
    let mut least = Held { descriptors: usize::MAX, resident: 0, threads: 0, files };
    // What ends in the background ends soon.
    for _ in 0..40 {
        let (descriptors, threads) = (worker.descriptors(), worker.threads());
        if descriptors < least.descriptors {
            least = Held { descriptors, resident: worker.resident(), threads, files };
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    least
}
