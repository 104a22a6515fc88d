//! Sizes, times and disks have ends.

use std::time::{Duration, Instant};

use git_context::{Error, Limits, Request};
use obuilder_core::Cancel;

use crate::fixture::*;
use crate::server::{Kind, Server};

/// Text that does not compress.
fn noise(bytes: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn what_is_fetched_is_bounded_and_leaves_no_heap() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { fetch: 300_000, ..Limits::default() };
    let repo = fixture.repo("repo");
    let small = repo.head();
    let big = repo.commit("big", &noise(1_000_000));
    let contexts = fixture.contexts();
    for _ in 0..2 {
        let (error, _) = fail(&contexts, &repo.url(), &[&big]);
        assert!(error.contains("is larger than the limit of 300000 bytes"), "{error}");
        assert!(contexts.mirrors_size().unwrap() < 300_000);
    }
    drop(get(&contexts, &repo.url(), &[&small]));
}

#[test]
fn all_fetches_of_a_job_are_bounded_together() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { fetch: 300_000, ..Limits::default() };
    let (inner, repo) = (fixture.repo("inner"), fixture.repo("repo"));
    inner.commit("big", &noise(200_000));
    let alone = repo.commit("big", &noise(200_000));
    let both = repo.add_submodule("sub", "../inner", &inner.head());
    let contexts = fixture.contexts();
    let (error, _) = fail(&contexts, &repo.url(), &[&both]);
    assert!(error.contains("is larger than the limit of 300000 bytes"), "{error}");
    drop(get(&contexts, &repo.url(), &[&alone]));
    drop(get(&contexts, &inner.url(), &[&inner.head()]));
    drop(get(&contexts, &repo.url(), &[&both]));
}

#[test]
fn a_full_volume_is_left_alone() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { free: u64::MAX, ..Limits::default() };
    let repo = fixture.repo("repo");
    let (error, _) = fail(&fixture.contexts(), &repo.url(), &[&repo.head()]);
    assert!(error.contains("bytes free on the worker's disk"), "{error}");
    assert!(error.contains("what is fetched from"), "{error}");
}

#[test]
fn files_that_compress_well_are_measured_before_they_are_written() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { files: 1_000_000, ..Limits::default() };
    let repo = fixture.repo("repo");
    let commit = repo.commit("zeros", &"0".repeat(2_000_000));
    let (error, _) = fail(&fixture.contexts(), &repo.url(), &[&commit]);
    assert_eq!(error, "what the job checks out is larger than the limit of 1000000 bytes");
}

#[test]
fn commits_that_are_too_large_together() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { files: 250_000, ..Limits::default() };
    let repo = fixture.repo("repo");
    let base = repo.head();
    let mut commits = vec![];
    for n in 0..4 {
        repo.git(&["checkout", "-q", "-b", &format!("b{n}"), &base]);
        commits.push(repo.commit(&format!("file-{n}"), &noise(100_000)));
    }
    let commits: Vec<_> = commits.iter().map(String::as_str).collect();
    let contexts = fixture.contexts();
    drop(get(&contexts, &repo.url(), &commits[..2]));
    let (error, log) = fail(&contexts, &repo.url(), &commits);
    assert_eq!(error, "what the job checks out is larger than the limit of 250000 bytes");
    assert!(log.matches("Merge made").count() <= 2, "{log}");
}

#[test]
fn a_server_that_never_answers() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { time: Duration::from_millis(300), ..Limits::default() };
    for scheme in ["git", "http"] {
        let server = Server::start(&fixture.repos(), Kind::Silent);
        let begun = Instant::now();
        let (error, _) = fail(&fixture.contexts(), &server.url(scheme, "x"), &[&"a".repeat(40)]);
        assert!(
            error.contains("git-fetch was stopped: getting the sources may take 0.3 s"),
            "{error}"
        );
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(server.connections() <= 1);
    }
    assert!(fixture.left().is_empty());
}

#[test]
fn a_server_that_never_ends() {
    let mut fixture = Fixture::new();
    let (memory, time) = (256 << 20, Duration::from_secs(60));
    fixture.config.limits = Limits { memory, time, ..Limits::default() };
    let server = Server::start(&fixture.repos(), Kind::Endless);
    let (error, log) = fail(&fixture.contexts(), &server.url("http", "x"), &[&"a".repeat(40)]);
    assert!(
        error.starts_with("git-fetch failed") || error.contains("git-fetch was stopped"),
        "{error}"
    );
    assert!(log.contains("ut of memory") || log.is_empty(), "{log}");
}

#[test]
fn what_git_says_is_bounded() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { output: 2000, ..Limits::default() };
    let repo = fixture.repo("repo");
    let base = repo.head();
    for n in 0..200 {
        std::fs::write(repo.path.join(format!("file-{n}")), "x\n").unwrap();
    }
    let commit = repo.commit("last", "x");
    let (_, log) = get(&fixture.contexts(), &repo.url(), &[&base, &commit]);
    assert!(log.len() < 2300 && log.contains("(git-merge says more than is shown here)"), "{log}");
}

#[test]
fn mirrors_are_removed_by_age_and_never_while_they_are_used() {
    let mut fixture = Fixture::new();
    let repos: Vec<_> = (0..3).map(|n| fixture.repo(&format!("repo{n}"))).collect();
    for (n, repo) in repos.iter().enumerate() {
        repo.commit("big", &noise(100_000 + n));
    }
    let contexts = fixture.contexts();
    let contexts_held: Vec<_> =
        repos.iter().map(|repo| get(&contexts, &repo.url(), &[&repo.head()]).0).collect();
    drop(get(&contexts, &repos[0].url(), &[&repos[0].head()]));
    let pruned = contexts.prune(250_000).unwrap();
    assert_eq!(pruned.removed.len(), 1);
    assert!(pruned.removed[0].0.to_string_lossy().contains("repo1-"), "{pruned:?}");
    assert_eq!(pruned.kept, contexts.mirrors_size().unwrap());
    assert_eq!(read(&contexts_held[1], "file"), "one\n", "contexts need no mirror");
    fixture.config.limits.mirrors = 150_000;
    let contexts = fixture.contexts();
    drop(get(&contexts, &repos[1].url(), &[&repos[1].head()]));
    assert_eq!(fixture.mirrors().len(), 1, "after a fetch all is in bounds");
}

#[test]
fn a_log_that_cannot_be_written() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let request = Request::new(&repo.url(), [repo.head().as_str()], false).unwrap();
    let full = |_: &[u8]| Err(std::io::Error::other("full"));
    let error = fixture.contexts().prepare(&request, &full, &Cancel::new()).unwrap_err();
    assert!(matches!(error, Error::Log(_)), "{error}");
    assert!(fixture.left().is_empty());
}

#[test]
fn a_git_that_is_not_there() {
    let mut fixture = Fixture::new();
    let contexts = fixture.contexts();
    assert!(contexts.version(&Cancel::new()).unwrap().starts_with("git version "));
    fixture.config.git = "/nonexistent/git".into();
    let error = fixture.contexts().version(&Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/git") && error.hint().is_some());
}
