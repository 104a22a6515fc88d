//! What a step costs over the bare command: `/bin/sh -c true` in the sandbox, and by fork, setuid, exec and wait alone.
//!
//! Prints medians and their ratio. As root; as anybody else both run as the calling user.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use obuilder_core::step::Outcome;
use obuilder_core::testing::sandbox::step;
use obuilder_core::{BuildLog, Cancel, Sandbox};

const ROUNDS: usize = 300;

fn main() {
    let user = common::TestUser::new();
    let sandbox = user.sandbox();
    let tree = user.dir().join("tree/rootfs");
    std::fs::create_dir_all(&tree).unwrap();
    let owner = sandbox.ensure_users().unwrap().first().map(|user| user.owner);
    let bare = || {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
        if let Some(owner) = owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        // The sandbox forks, and posix_spawn may not: compare like with like.
        // SAFETY: the closure does nothing.
        unsafe { command.pre_exec(|| Ok(())) };
        assert!(command.status().unwrap().success());
    };
    let log = BuildLog::create(&user.dir().join("log")).unwrap();
    let run = |networks: &[&str]| {
        let mut step = step("true");
        step.network = networks.iter().map(|network| (*network).into()).collect();
        let outcome = sandbox.run(&step, &tree, &log, &Cancel::new(), &|_| {}).unwrap();
        assert_eq!(outcome, Outcome::Exited(0));
    };
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(timed(bare));
        times[1].push(timed(|| run(&["host"])));
        times[2].push(timed(|| run(&[])));
    }
    let [bare, host, isolated] = times.map(median);
    println!("bare fork+setuid+exec+wait  {bare:>10.3?}");
    println!("sandbox, (network host)     {host:>10.3?}  {:.2}x", ratio(host, bare));
    println!("sandbox, network isolated   {isolated:>10.3?}  {:.2}x", ratio(isolated, bare));
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
