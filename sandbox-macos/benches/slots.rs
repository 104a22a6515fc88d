//! What several slots bring: the throughput of steps that need a processor each, with two slots over one; and what it
//! costs to hand a tree of 50,000 files to another slot, over `chown -R` on such a tree.
//!
//! Prints medians and ratios. Needs root.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::TestUser;
use obuilder_core::testing::sandbox::step;
use obuilder_core::{BuildLog, Cancel, Sandbox};
use sandbox_macos::BuildUserSandbox;

/// Rounds of each pair.
const ROUNDS: usize = 7;
/// Keeps one processor busy for about a second.
const WORK: &str = "i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done";
/// Files of the tree that is handed over.
const FILES: usize = 50_000;
/// Files in one directory.
const A_DIRECTORY: usize = 100;

fn main() {
    if !common::needs_root() {
        return;
    }
    let user = TestUser::several(2);
    throughput(&user);
    hand_over(&user);
}

fn throughput(user: &TestUser) {
    let mut config = user.config.clone();
    config.users.truncate(1);
    let (one, two) = (BuildUserSandbox::new(config).unwrap(), user.sandbox());
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (sandbox, times) in [&one, &two].into_iter().zip(&mut times) {
            times.push(timed(|| {
                std::thread::scope(|scope| {
                    for name in ["a", "b"] {
                        scope.spawn(move || run(user, sandbox, WORK, &tree(user, name)));
                    }
                });
            }));
        }
    }
    let [one, two] = times.map(median);
    println!("two busy steps, one slot    {one:>10.3?}");
    println!("two busy steps, two slots   {two:>10.3?}  {:.2}x the throughput", ratio(one, two));
}

fn hand_over(user: &TestUser) {
    let sandbox = user.sandbox();
    let (handed, bare) = (tree(user, "handed"), tree(user, "bare"));
    fill(&handed);
    fill(&bare);
    let uids = user.config.users.iter().map(|user| user.uid).collect::<Vec<_>>();
    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        let from = uids[round % 2];
        times[0].push(timed(|| chown(&bare, from)));
        chown(&handed, from);
        times[1].push(timed(|| run(user, &sandbox, "true", &handed)));
        assert_eq!(handed.metadata().unwrap().uid(), from, "its own slot was free");
        // Held by somebody else, the tree's own slot cannot be taken.
        let lock = fs::File::open(user.config.lock_dir.join(format!("uid-{from}.lock"))).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        times[2].push(timed(|| run(user, &sandbox, "true", &handed)));
        assert_ne!(handed.metadata().unwrap().uid(), from);
    }
    let [bare, own, other] = times.map(median);
    let handing = other.saturating_sub(own);
    println!("chown -R, {FILES} files      {bare:>10.3?}");
    println!("a step in the tree's slot   {own:>10.3?}");
    println!("a step in another slot      {other:>10.3?}");
    println!("handing over                {handing:>10.3?}  {:.2}x chown -R", ratio(handing, bare));
}

fn tree(user: &TestUser, name: &str) -> std::path::PathBuf {
    let tree = user.dir().join(name).join("rootfs");
    fs::create_dir_all(&tree).unwrap();
    tree
}

fn fill(tree: &Path) {
    for n in 0..FILES {
        let dir = tree.join((n / A_DIRECTORY).to_string());
        if n % A_DIRECTORY == 0 {
            fs::create_dir(&dir).unwrap();
        }
        fs::write(dir.join(n.to_string()), "x").unwrap();
    }
}

fn chown(tree: &Path, uid: u32) {
    let who = format!("{uid}:{uid}");
    assert!(Command::new("chown").arg("-R").arg(who).arg(tree).status().unwrap().success());
}

fn run(user: &TestUser, sandbox: &BuildUserSandbox, script: &str, tree: &Path) {
    let log = tempfile::tempfile_in(user.dir()).unwrap();
    let outcome =
        sandbox.run(&step(script), tree, &BuildLog::from_file(log), &Cancel::new(), &|_| {});
    assert!(outcome.is_ok(), "{outcome:?}");
}

fn timed(run: impl FnOnce()) -> Duration {
    let started = Instant::now();
    run();
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
