//! An agent and a strict scheduler, over real TLS.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Client, Running, Script, config, eventually, run, until, whole_log};
use obuild_worker::agent::Leaving;
use obuild_worker::weight::Weights;
use ocluster::admin::AdminClient;
use ocluster::connect::Options;
use ocluster::job::JobClient;
use ocluster::testing::{Call, Fault, Scheduler, Security};
use ocluster::worker::MetricsSource;
use ocluster::{Action, JobDescr};

fn tls() -> Scheduler {
    Scheduler::start("p", Security::Tls)
}

/// Waits until the first words of a job are there: it is under way.
async fn until_begun(job: &JobClient) {
    assert!(!job.log(0).await.unwrap().bytes.is_empty());
}

#[test]
fn jobs_end_as_the_original_says() {
    let scheduler = tls();
    let _agent = Running::start(&scheduler, "w1", 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("print hello\n");
        assert_eq!(whole_log(&job).await, "Building on w1\nhello\nJob succeeded\n");
        assert_eq!(job.result().await.unwrap(), "print hello\n");
        let job = client.submit("fail");
        assert_eq!(whole_log(&job).await, "Building on w1\nit broke\n");
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build failed");
        let job = client.submit("wait");
        until_begun(&job).await;
        job.cancel().await.unwrap();
        assert_eq!(whole_log(&job).await, "Building on w1\nwaiting\nJob cancelled\n");
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build cancelled");
        let job = client.submit("panic");
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build failed");
        assert!(whole_log(&job).await.contains("Uncaught exception"));
        let later =
            JobDescr { action: Action::Custom { kind: "day10".into() }, ..JobDescr::obuilder("") };
        let job = client.submit_job(&later);
        assert_eq!(whole_log(&job).await, "Building on w1\nUnsupported custom job\n");
        let error = job.log(1000).await.unwrap_err();
        assert_eq!(error.to_string(), "Start value out of range!");
        assert_eq!(job.log(-4).await.unwrap().bytes, b"job\n");
    });
    scheduler.wait_until("nothing but the worker is left", |live| {
        (live.connections, live.tickets) == (1, 0)
    });
    scheduler.check();
}

#[test]
fn no_more_jobs_run_than_there_is_capacity_for() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 3);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let jobs: Vec<_> = (0..5).map(|_| client.submit("wait")).collect();
        until("three run", || agent.executor.now.load(Ordering::SeqCst) == 3).await;
        until("two wait", || scheduler.live().waiting == 2).await;
        for job in jobs {
            until_begun(&job).await;
            job.cancel().await.unwrap();
            assert!(job.result().await.is_err());
        }
    });
    assert_eq!(agent.executor.most.load(Ordering::SeqCst), 3);
    scheduler.check();
}

#[test]
fn a_job_whose_holders_go_is_cancelled() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("wait");
        until_begun(&job).await;
        // Somebody waits for its end all the while.
        let waiting = tokio::task::spawn_local(async move { job.result().await });
        tokio::task::yield_now().await;
        drop(client);
        assert!(waiting.await.unwrap().is_err());
    });
    eventually("it ends", || agent.executor.now.load(Ordering::SeqCst) == 0);
    scheduler.check();
}

#[test]
fn a_lost_scheduler_is_found_again() {
    let mut scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("wait");
        until_begun(&job).await;
    });
    scheduler.stop();
    eventually("the job ends with its scheduler", || {
        agent.executor.now.load(Ordering::SeqCst) == 0
    });
    scheduler.start_again();
    scheduler.wait_until("the worker is back", |live| live.registrations == 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        assert_eq!(client.submit("x").result().await.unwrap(), "x");
    });
    scheduler.check();
}

#[test]
fn whatever_call_fails_the_worker_comes_back() {
    let scheduler = tls();
    let all = [
        (Call::Register, Fault::Drop),
        (Call::Register, Fault::Fail),
        (Call::Pop, Fault::Drop),
        (Call::Pop, Fault::Fail),
    ];
    all.into_iter().for_each(|(call, fault)| scheduler.plan(call, fault));
    let agent = Running::start(&scheduler, "w1", 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        assert_eq!(client.submit("x").result().await.unwrap(), "x");
    });
    assert_eq!(scheduler.live().faults, 0, "all of them happened");
    assert!(agent.metrics.reconnects.load(Ordering::Relaxed) >= 4);
    scheduler
        .wait_until("one connection is left", |live| (live.connections, live.queues) == (1, 1));
    scheduler.check();
}

#[test]
fn a_scheduler_that_stalls_is_left_and_found_again() {
    let scheduler = tls();
    scheduler.plan(Call::Register, Fault::Stall);
    scheduler.plan(Call::SetActive, Fault::Stall);
    scheduler.plan(Call::SetActive, Fault::Fail);
    scheduler.plan(Call::SetActive, Fault::Drop);
    let mut config = config(scheduler.registration(), "w1", 1);
    config.patience = Duration::from_millis(300);
    let agent = Running::with(config, Script::default());
    eventually("it has registered at last", || {
        agent.metrics.registered.load(Ordering::Relaxed) == 1
    });
    // Told three times in vain, it says so again after each new registration.
    agent.order(|control| control.pause(true));
    eventually("it wants no jobs", || {
        scheduler.live().faults == 0 && scheduler.active_workers().is_empty()
    });
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("x");
        until("nobody takes it", || scheduler.live().waiting == 1).await;
        agent.order(|control| control.pause(false));
        assert_eq!(job.result().await.unwrap(), "x");
    });
    scheduler
        .wait_until("one connection is left", |live| (live.connections, live.queues) == (1, 1));
    scheduler.check();
}

#[test]
fn connections_lost_in_the_middle_of_any_call_to_the_worker_do_not_harm_it() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 4);
    for round in 0..8 {
        scheduler.wait_until("the worker is there", |live| live.registrations > round);
        run(async {
            let client = Client::new(&scheduler, "p").await;
            let session = ocluster::connect(scheduler.admin(), &Options::default()).await.unwrap();
            let worker = AdminClient::of(&session).pool("p").worker("w1");
            let job = client.submit("wait");
            until_begun(&job).await;
            // Each of these is asked, and the connection goes before, while or after it is answered.
            let (log, result) = (job.log(i64::MAX / 2), job.result());
            let (agent, other) =
                (worker.metrics(MetricsSource::Agent), worker.additional_metric("x"));
            let (end, cut) = (job.log(-1), async {
                if round % 2 == 1 {
                    tokio::task::yield_now().await;
                }
                scheduler.drop_worker("w1");
            });
            let all = async { tokio::join!(log, result, agent, other, end, job.cancel(), cut) };
            let (log, result, ..) = all.await;
            assert!(log.is_err() && result.is_err());
        });
        eventually("the job ends", || agent.executor.now.load(Ordering::SeqCst) == 0);
    }
    scheduler.wait_until("one connection is left", |live| {
        (live.connections, live.queues, live.tickets) == (1, 1, 0)
    });
    scheduler.check();
}

#[test]
fn heavy_jobs_take_the_place_of_several() {
    let scheduler = tls();
    let mut config = config(scheduler.registration(), "w1", 4);
    config.weights = Weights::parse(&["heavy*=3".to_owned()]).unwrap();
    let agent = Running::with(config, Script::default());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let of = |hint: &str| JobDescr { cache_hint: hint.into(), ..JobDescr::obuilder("wait") };
        let begun = |count| {
            let executor = agent.executor.clone();
            async move {
                until("so many run", || executor.now.load(Ordering::SeqCst) == count).await;
            }
        };
        let light = [client.submit_job(&of("light")), client.submit_job(&of(""))];
        begun(2).await;
        let heavy = client.submit_job(&of("heavy one"));
        let mut text = String::new();
        while !text.contains("made room for this heavy one\n") {
            let at = i64::try_from(text.len()).unwrap();
            text.push_str(&String::from_utf8_lossy(&heavy.log(at).await.unwrap().bytes));
        }
        // It is waited for: nobody who weighs less goes before it.
        let late = client.submit_job(&of("late"));
        until("nobody takes it", || scheduler.live().waiting == 1).await;
        assert_eq!(agent.executor.now.load(Ordering::SeqCst), 2);
        light[0].cancel().await.unwrap();
        assert!(light[0].result().await.is_err());
        begun(2).await;
        assert_eq!(scheduler.live().waiting, 1, "there is room for no more");
        for job in [&heavy, &light[1]] {
            job.cancel().await.unwrap();
            assert_eq!(job.result().await.unwrap_err().to_string(), "Build cancelled");
        }
        until_begun(&late).await;
        for job in [&late] {
            job.cancel().await.unwrap();
            assert_eq!(job.result().await.unwrap_err().to_string(), "Build cancelled");
        }
        // One that waits can be called off.
        let (one, two) = (client.submit_job(&of("heavy 1")), client.submit_job(&of("heavy 2")));
        until_begun(&one).await;
        until_begun(&two).await;
        two.cancel().await.unwrap();
        assert_eq!(two.result().await.unwrap_err().to_string(), "Build cancelled");
        one.cancel().await.unwrap();
        assert!(one.result().await.is_err());
    });
    eventually("nothing runs", || agent.executor.now.load(Ordering::SeqCst) == 0);
    scheduler.check();
}

#[test]
fn connections_lost_in_the_middle_of_a_job_do_not_leak() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 2);
    for round in 1..=10 {
        run(async {
            let client = Client::new(&scheduler, "p").await;
            let (one, two) = (client.submit("wait"), client.submit("flood 1000000000"));
            until_begun(&one).await;
            until_begun(&two).await;
            scheduler.drop_connections();
            assert!(one.result().await.is_err());
        });
        eventually("the jobs end", || agent.executor.now.load(Ordering::SeqCst) == 0);
        scheduler.wait_until("the worker is back", |live| live.registrations > round);
    }
    scheduler.wait_until("one connection is left", |live| {
        (live.connections, live.queues, live.tickets) == (1, 1, 0)
    });
    scheduler.check();
}

#[test]
fn a_name_that_is_taken_is_waited_for() {
    let scheduler = tls();
    let first = Running::start(&scheduler, "w1", 1);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    let second = Running::start(&scheduler, "w1", 1);
    eventually("it is refused", || second.metrics.reconnects.load(Ordering::Relaxed) > 2);
    drop(first);
    scheduler.wait_until("the second is there", |live| live.registrations == 2);
    scheduler.check();
}

#[test]
fn draining_finishes_jobs_and_takes_no_more() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 2);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let running = client.submit("wait");
        until_begun(&running).await;
        agent.order(|control| control.drain());
        until("it wants no jobs", || scheduler.active_workers().is_empty()).await;
        let _late = client.submit("x");
        until("nobody takes it", || scheduler.live().waiting == 1).await;
        assert!(!agent.has_left());
        running.cancel().await.unwrap();
        assert_eq!(whole_log(&running).await, "Building on w1\nwaiting\nJob cancelled\n");
    });
    assert_eq!(agent.left(), Leaving::Stopped);
    scheduler.check();
}

#[test]
fn what_comes_while_the_worker_says_that_it_wants_no_more_is_done() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 1);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    // The scheduler does not hear that the worker wants no jobs, and so gives it one.
    scheduler.plan(Call::SetActive, Fault::Stall);
    agent.order(|control| control.drain());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("x");
        assert_eq!(job.result().await.unwrap(), "x");
    });
    scheduler.drop_connections();
    assert_eq!(agent.left(), Leaving::Stopped);
    scheduler.check();
}

#[test]
fn logs_of_ended_jobs_make_room_for_each_other() {
    let scheduler = tls();
    let mut config = config(scheduler.registration(), "w1", 1);
    config.ended_logs_cap = 250_000;
    let _agent = Running::with(config, Script::default());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let mut jobs = Vec::new();
        for _ in 0..4 {
            let job = client.submit("flood 100000");
            job.result().await.unwrap();
            jobs.push(job);
        }
        for job in &jobs[..2] {
            let error = job.log(0).await.unwrap_err();
            assert_eq!(error.to_string(), "this log is no longer kept");
        }
        for job in &jobs[2..] {
            assert!(whole_log(job).await.len() > 100_000);
        }
    });
    scheduler.check();
}

#[test]
fn jobs_that_are_held_for_ever_take_few_descriptors() {
    let scheduler = tls();
    let _agent = Running::start(&scheduler, "w1", 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let mut jobs = Vec::new();
        for _ in 0..110 {
            let job = client.submit("flood 20000");
            job.result().await.unwrap();
            jobs.push(job);
        }
        let mut kept = 0;
        for job in &jobs {
            kept += usize::from(job.log(0).await.is_ok());
        }
        assert_eq!(kept, 100);
        assert!(whole_log(&jobs[109]).await.len() > 20_000, "the last one is");
    });
    scheduler.check();
}

#[test]
fn a_log_that_cannot_be_written_costs_neither_its_job_nor_the_others() {
    let scheduler = tls();
    let mut config = config(scheduler.registration(), "w1", 2);
    config.log_dir = "/nonexistent".into();
    let _agent = Running::with(config, Script::default());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let other = client.submit("wait");
        until_begun(&other).await;
        let job = client.submit("flood 100000");
        job.result().await.unwrap();
        let log = whole_log(&job).await;
        assert!(log.contains("the worker cannot keep the rest of this log"), "{log}");
        assert!(log.ends_with("Job succeeded\n"), "{log}");
        other.cancel().await.unwrap();
    });
    assert_eq!(scheduler.live().registrations, 1, "it has not come anew");
    scheduler.check();
}

#[test]
fn stopping_cancels_jobs() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 2);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("wait");
        until_begun(&job).await;
        agent.order(|control| control.drain());
        agent.order(|control| control.stop());
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build cancelled");
    });
    assert_eq!(agent.left(), Leaving::Stopped);
    scheduler.check();
}

#[test]
fn an_update_ends_with_the_connection() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 1);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("wait");
        until_begun(&job).await;
        let session = ocluster::connect(scheduler.admin(), &Options::default()).await.unwrap();
        let worker = AdminClient::of(&session).pool("p").worker("w1");
        let update = tokio::task::spawn_local(async move { worker.self_update().await });
        until("it wants no jobs", || scheduler.active_workers().is_empty()).await;
        assert!(!update.is_finished());
        job.cancel().await.unwrap();
        assert!(job.result().await.is_err());
        drop((job, client));
        update.await.unwrap().unwrap();
    });
    assert_eq!(agent.left(), Leaving::Update);
    scheduler.check();
}

#[test]
fn a_paused_worker_gets_no_jobs_until_it_wants_them_again() {
    let scheduler = tls();
    let agent = Running::start(&scheduler, "w1", 1);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    agent.order(|control| control.pause(true));
    eventually("it wants no jobs", || scheduler.active_workers().is_empty());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("x");
        until("nobody takes it", || scheduler.live().waiting == 1).await;
        agent.order(|control| control.pause(false));
        assert_eq!(job.result().await.unwrap(), "x");
        let next = client.submit("y");
        assert_eq!(next.result().await.unwrap(), "y");
    });
    scheduler.check();
}

#[test]
fn a_job_is_stopped_at_its_time_limit() {
    let scheduler = tls();
    let mut config = config(scheduler.registration(), "w1", 1);
    config.job_timeout = Some(Duration::from_millis(50));
    let _agent = Running::with(config, Script::default());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("wait");
        assert!(whole_log(&job).await.ends_with("Job stopped at its time limit of 0 s\n"));
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build failed");
    });
    scheduler.check();
}

#[test]
fn the_scheduler_is_given_metrics() {
    let scheduler = tls();
    let mut config = config(scheduler.registration(), "w1", 7);
    config.additional_metrics = vec![("gone".into(), "http://127.0.0.1:1/metrics".into())];
    let _agent = Running::with(config, Script::default());
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        client.submit("x").result().await.unwrap();
        let session = ocluster::connect(scheduler.admin(), &Options::default()).await.unwrap();
        let worker = AdminClient::of(&session).pool("p").worker("w1");
        let metrics = worker.metrics(MetricsSource::Agent).await.unwrap();
        assert_eq!(metrics.content_type, "text/plain; version=0.0.4; charset=utf-8");
        assert!(
            metrics.data.contains("\nocluster_worker_jobs_accepted_total 1\n"),
            "{}",
            metrics.data
        );
        assert!(metrics.data.contains("\nobuild_worker_capacity 7\n"));
        assert_eq!(worker.additional_metric("other").await.unwrap(), None);
        let error = worker.additional_metric("gone").await.unwrap_err();
        assert_eq!(error.to_string(), "Failed to connect to prometheus-node-exporter");
    });
    scheduler.check();
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let scheduler = tls();
    let _agent = Running::start(&scheduler, "w1", 2);
    run(async {
        let idle = Client::new(&scheduler, "p").await;
        let unread = idle.submit("flood 20000000");
        let client = Client::new(&scheduler, "p").await;
        assert_eq!(client.submit("x").result().await.unwrap(), "x");
        unread.result().await.unwrap();
        let log = whole_log(&unread).await;
        assert_eq!(log.len(), "Building on w1\n".len() + 20_000_000 + "\nJob succeeded\n".len());
    });
    scheduler.check();
}
