//! Several jobs at once.

use std::fs;
use std::sync::Barrier;

use git_context::Request;
use obuilder_core::Cancel;

use crate::fixture::*;
use crate::server::{Kind, Server};

#[test]
fn eight_jobs_of_one_repository_that_nobody_has_fetched() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let commits: Vec<_> = (0..8).map(|n| repo.commit("file", &format!("{n}\n"))).collect();
    let server = Server::start(&fixture.repos(), Kind::Daemon(vec![]));
    let url = server.url("git", "repo/.git");
    let (contexts, barrier) = (fixture.contexts(), Barrier::new(8));
    let (contexts, barrier, url) = (&contexts, &barrier, &url);
    std::thread::scope(|scope| {
        for (n, commit) in commits.iter().enumerate() {
            scope.spawn(move || {
                barrier.wait();
                for _ in 0..3 {
                    let (context, _) = get(contexts, url, &[commit]);
                    assert_eq!(read(&context, "file"), format!("{n}\n"));
                    fs::write(context.path().join("file"), "mine").unwrap();
                    fs::create_dir(context.path().join("_build")).unwrap();
                }
            });
        }
    });
    assert!(server.connections() <= 8, "{}", server.connections());
    assert!(fixture.left().is_empty());
    let mirror = Repo { path: fixture.mirror() };
    mirror.git(&["fsck", "--full"]);
}

#[test]
fn whoever_waits_for_a_fetch_says_so_and_can_be_cancelled() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture.repos(), Kind::Silent);
    let contexts = fixture.contexts();
    let request = Request::new(&server.url("git", "x"), ["a".repeat(40).as_str()], false).unwrap();
    let (first, second) = (Cancel::new(), Cancel::new());
    let log = Log::default();
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| prepare_with(&contexts, &request, &first).0);
        wait_until("the fetch", || server.connections() == 1);
        let waiting =
            scope.spawn(|| contexts.prepare(&request, &|bytes| log.write(bytes), &second));
        let expected =
            format!("Waiting for another job that fetches `{}`\n", server.url("git", "x"));
        wait_until("the wait", || log.text() == expected);
        second.cancel();
        assert_eq!(waiting.join().unwrap().unwrap_err().to_string(), "cancelled");
        assert!(!fetching.is_finished(), "the other one is not disturbed");
        first.cancel();
        assert_eq!(fetching.join().unwrap().unwrap_err().to_string(), "cancelled");
    });
    assert!(fixture.left().is_empty());
}

#[test]
fn cancelling_ends_gits_helpers_too() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture.repos(), Kind::Silent);
    let contexts = fixture.contexts();
    let url = server.url("http", "x");
    let request = Request::new(&url, ["a".repeat(40).as_str()], false).unwrap();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| prepare_with(&contexts, &request, &cancel).0);
        wait_until("the fetch", || server.connections() == 1);
        assert!(git_with_argument(&url).len() >= 2, "git and its helper");
        cancel.cancel();
        assert_eq!(fetching.join().unwrap().unwrap_err().to_string(), "cancelled");
        wait_until("the end of all", || git_with_argument(&url).is_empty());
    });
}

#[test]
fn mirrors_are_removed_and_broken_while_jobs_use_them() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let commits: Vec<_> = (0..4).map(|n| repo.commit("file", &format!("{n}\n"))).collect();
    let contexts = fixture.contexts();
    let jobs = std::sync::atomic::AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for (n, commit) in commits.iter().enumerate() {
            let (contexts, jobs, repo) = (&contexts, &jobs, &repo);
            scope.spawn(move || {
                for _ in 0..6 {
                    let (context, _) = get(contexts, &repo.url(), &[commit]);
                    assert_eq!(read(&context, "file"), format!("{n}\n"));
                }
                jobs.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            while jobs.load(std::sync::atomic::Ordering::SeqCst) > 0 {
                contexts.prune(0).unwrap();
                if let [mirror] = &fixture.mirrors()[..] {
                    let _ = fs::remove_file(mirror.join("repo/HEAD"));
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
    });
    assert!(fixture.left().is_empty());
}

#[test]
fn a_job_that_is_cancelled_leaves_the_others_alone() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let contexts = fixture.contexts();
    let commit = repo.head();
    let request = Request::new(&repo.url(), [commit.as_str()], false).unwrap();
    let (context, _) = get(&contexts, &repo.url(), &[&commit]);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (contexts, request) = (&contexts, &request);
            scope.spawn(move || {
                for round in 0..5 {
                    let cancel = Cancel::new();
                    // Anywhere between the first step and the last one.
                    let mut written = 0;
                    let log = std::cell::RefCell::new(&mut written);
                    let stop = |bytes: &[u8]| {
                        **log.borrow_mut() += bytes.len();
                        if n % 2 == 0 && **log.borrow() > round * 15 {
                            cancel.cancel();
                        }
                        Ok(())
                    };
                    match contexts.prepare(request, &stop, &cancel) {
                        Ok(context) => assert_eq!(read(&context, "file"), "one\n"),
                        Err(error) => {
                            assert_eq!((error.to_string().as_str(), n % 2), ("cancelled", 0))
                        }
                    }
                }
            });
        }
    });
    assert_eq!(read(&context, "file"), "one\n");
    assert_eq!(fixture.left().len(), 1);
}

#[test]
fn a_cancelled_token_starts_nothing() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let request = Request::new(&repo.url(), [repo.head().as_str()], false).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let (prepared, log) = prepare_with(&fixture.contexts(), &request, &cancel);
    assert_eq!((prepared.unwrap_err().to_string(), log), ("cancelled".into(), String::new()));
}
