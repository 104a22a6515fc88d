//! What `obuild build` costs: a build that is all in the cache, and a step that is not.
//!
//! `cargo bench -p obuild --bench main_job`. Whole processes, in turns in one run; medians and what they are compared with.
//! As root steps run as a build user; as anybody else as the caller, and the figures say so.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const OBUILD: &str = env!("CARGO_BIN_EXE_obuild");
const ROUNDS: usize = 40;
const CACHED_STEPS: usize = 50;
const NEW_STEPS: usize = 20;
const UID: u32 = 705;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    // The build user must be able to reach its home.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    cached(dir.path());
    uncached(dir.path());
}

fn cached(dir: &Path) {
    let spec = dir.join("cached.scm");
    write_spec(&spec, "cached", CACHED_STEPS);
    build(dir, &spec);
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        times[0].push(timed(|| build(dir, &spec)));
        times[1].push(timed(|| run(Command::new(OBUILD).arg("--version"))));
    }
    let [cached, version] = times.map(median);
    println!("a cached {CACHED_STEPS}-step build      {cached:>10.2?}");
    println!("obuild --version             {version:>10.2?}");
    println!(
        "the build over --version     {:>10.2?}  (bound: 10 ms)",
        cached.saturating_sub(version)
    );
}

fn uncached(dir: &Path) {
    let mut times = [const { Vec::new() }; 2];
    for round in 0..ROUNDS {
        let spec = dir.join(format!("new-{round}.scm"));
        write_spec(&spec, &round.to_string(), NEW_STEPS);
        let new = timed(|| build(dir, &spec));
        let again = timed(|| build(dir, &spec));
        times[0].push(new.saturating_sub(again) / NEW_STEPS as u32);
        times[1].push(timed(|| (0..NEW_STEPS).for_each(|_| bare())) / NEW_STEPS as u32);
    }
    let [step, bare] = times.map(median);
    let ratio = step.as_secs_f64() / bare.as_secs_f64();
    println!("an uncached (run (shell true)){step:>10.2?}  (bound: 10 ms)");
    println!("bare fork+setuid+exec+wait   {bare:>10.2?}");
    println!("the step over the bare shell {ratio:>9.2}x  (bound: 5x)");
}

/// `true`, each time with a word more, so that each step has an id of its own.
fn write_spec(path: &Path, name: &str, steps: usize) {
    let mut spec = "((from scratch)".to_owned();
    for step in 0..steps {
        write!(spec, " (run (shell \"true {name} {step}\"))").unwrap();
    }
    std::fs::write(path, spec + ")").unwrap();
}

fn build(dir: &Path, spec: &Path) {
    let store = format!("rsync:{}", dir.join("store").display());
    run(Command::new(OBUILD).arg("build").arg(spec).args([
        "--store",
        &store,
        "--uid",
        &UID.to_string(),
    ]));
}

/// The default shell of a spec, as the build user.
fn bare() {
    let mut command = Command::new("/usr/bin/env");
    command.args(["bash", "-c", "true"]);
    if nix::unistd::geteuid().is_root() {
        command.uid(UID).gid(UID);
    }
    // SAFETY: the closure does nothing; it makes the library fork, as the sandbox must.
    unsafe { command.pre_exec(|| Ok(())) };
    run(&mut command);
}

fn run(command: &mut Command) {
    let status =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
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
