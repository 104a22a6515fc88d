//! Many jobs, impatient clients, killed workers and schedulers: every job has one end, and nothing is left.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "../../tests/common/uid.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod uid;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use common::{Client, Submitted, eventually, run};
use nix::sys::signal::Signal;
use ocluster::CallError;
use ocluster::testing::{Scheduler, Security};
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

/// Follows a job to its one end, and checks that log and result agree.
async fn follow(job: &Submitted, number: usize) -> End {
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
        let (first, last) = ("Building on w1\n", log.lines().last().unwrap_or_default());
        assert!(log.starts_with(first), "job {number}: {log}");
        match end {
            End::Succeeded => assert_eq!(last, "Job succeeded", "job {number}: {log}"),
            End::Cancelled => assert_eq!(last, "Job cancelled", "job {number}: {log}"),
            _ => assert!(last.ends_with("failed with exit status 3"), "job {number}: {log}"),
        }
    }
    end
}

fn spec(number: usize) -> String {
    let command = match number % 5 {
        0 => format!("echo {number}; sleep 0.05"),
        1 => "echo the same for all".to_owned(),
        2 => format!("echo {number}; exit 3"),
        3 => format!("seq 1 20000; echo {number}"),
        _ => format!("sleep 0.{}; echo {number} >file", number % 9),
    };
    format!("((from scratch) (shell /bin/sh -c) (run (shell \"{command}\")))")
}

/// Does `jobs` jobs for `clients` clients at once, some of which lose patience.
async fn storm(scheduler: &Scheduler, jobs: usize, clients: usize) -> HashMap<End, usize> {
    let ends = Rc::new(RefCell::new(HashMap::<End, usize>::new()));
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (ends, connected) = (ends.clone(), Client::new(scheduler, "p").await);
        tasks.push(tokio::task::spawn_local(async move {
            for number in (client..jobs).step_by(clients) {
                let job = connected.submit(&spec(number));
                let end = match number % 7 {
                    3 => {
                        tokio::time::sleep(Duration::from_millis(number as u64 % 50)).await;
                        // It may have ended already, or its worker may be lost.
                        let _ = job.cancel().await;
                        follow(&job, number).await
                    }
                    _ => follow(&job, number).await,
                };
                *ends.borrow_mut().entry(end).or_default() += 1;
            }
        }));
    }
    for task in tasks {
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
    let ends = run(storm(&scheduler, 200, 20));
    assert_eq!(ends.values().sum::<usize>(), 200);
    assert_eq!(ends.get(&End::Lost), None, "{ends:?}");
    assert!(ends[&End::Succeeded] > 100 && ends[&End::Failed] > 20, "{ends:?}");
    scheduler.wait_until("all clients have gone", |live| {
        (live.connections, live.tickets, live.waiting) == (1, 0, 0)
    });
    eventually("descriptors are as before", || worker.descriptors() <= descriptors + 2);
    eventually("nothing runs", || place.processes().is_empty());
    place.assert_clean();
    scheduler.check();
}

#[test]
fn workers_and_schedulers_may_die_in_a_storm() {
    let mut scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 2);
    for round in 0..4 {
        let mut worker = place.start(&["--capacity", "4"]);
        scheduler.wait_until("it is there", |live| live.registrations > 0);
        let ends = run(async {
            let clients = storm(&scheduler, 40, 8);
            let death = async {
                tokio::time::sleep(Duration::from_millis(150 + 50 * round)).await;
                match round % 2 {
                    0 => worker.signal(Signal::SIGKILL),
                    _ => scheduler.drop_connections(),
                }
                // Those who wait for a worker that never comes go home.
                tokio::time::sleep(Duration::from_millis(500)).await;
                scheduler.drop_connections();
            };
            tokio::join!(clients, death).0
        });
        assert_eq!(ends.values().sum::<usize>(), 40, "{ends:?}");
        if round % 2 == 1 {
            worker.signal(Signal::SIGTERM);
            assert_eq!(worker.ended().code(), Some(0));
        }
        worker.ended();
        scheduler.stop();
        scheduler.start_again();
    }
    let _last = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job =
            client.submit("((from scratch) (shell /bin/sh -c) (run (shell \"echo calm again\")))");
        job.result().await.unwrap();
    });
    eventually("nothing runs", || place.processes().is_empty());
    place.assert_clean();
    scheduler.check();
}
