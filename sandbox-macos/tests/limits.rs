//! Limits of a step: in force for all of its processes together, and told in its log when one strikes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "only tests are here"
)]

mod common;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{TestUser, is_root, needs_root};
use obuilder_core::Sandbox;
use obuilder_core::step::Outcome;
use obuilder_core::testing::sandbox::step;
use sandbox_macos::{BuildUserSandbox, Limits};

const LONG: Duration = Duration::from_secs(30);

/// Runs the script in these limits.
fn run(limits: Limits, script: &str) -> (Outcome, String) {
    let mut user = TestUser::new();
    user.config.limits = limits;
    let fixture = user.fixture();
    let ran = fixture.run(&step(script), &fixture.tree("tree"));
    if is_root() {
        assert_eq!(groups(user.uid()), Vec::<PathBuf>::new(), "the control group has gone");
    }
    assert_eq!(user.left_behind(), Vec::<String>::new());
    ran
}

/// Control groups of a build user, wherever they are.
fn groups(uid: u32) -> Vec<PathBuf> {
    fn look(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == name {
                    found.push(entry.path());
                }
                look(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), &format!("obuild-{uid}"), &mut found);
    found
}

/// Whether root can bound a whole step here.
fn has_groups(limits: Limits) -> bool {
    let mut user = TestUser::new();
    user.config.limits = Limits { memory: limits.memory.or(Some(1 << 30)), ..limits };
    let weaknesses = BuildUserSandbox::new(user.config.clone()).unwrap().capabilities().weaknesses;
    let has = !weaknesses.iter().any(|weakness| weakness.starts_with("memory is limited"));
    if !has {
        eprintln!("SKIP: there are no control groups for us here");
    }
    has
}

#[test]
fn a_step_that_takes_too_much_memory_is_killed_and_told() {
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    if !needs_root() || !has_groups(limits) {
        return;
    }
    // Each process alone would be within the limit. A shell holds the text in its memory.
    let hold = "x=$(yes | head -c 20000000); sleep 1";
    let script = format!("printf begun; for n in 1 2 3 4 5 6; do ({hold}) & done; wait; exit 1");
    let (outcome, text) = run(limits, &script);
    assert_ne!(outcome, Outcome::Exited(0));
    let line = "obuild: the step was killed at its limit of 64 MiB of memory (--max-memory)\n";
    assert_eq!(text, format!("begun\n{line}"));
    let (outcome, text) = run(limits, "x=$(yes | head -c 20000000); echo ${#x}");
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(0), "19999999\n"));
}

#[test]
fn where_there_is_no_group_each_process_has_the_limit() {
    if is_root() || !cfg!(target_os = "linux") {
        return eprintln!("SKIP: only without root there is no group");
    }
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    let (outcome, text) = run(limits, "ulimit -d");
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(0), "65536\n"));
    let mut user = TestUser::new();
    user.config.limits = limits;
    let weaknesses = user.sandbox().capabilities().weaknesses;
    let weakness = "memory is limited for each process, not for the step".to_owned();
    assert!(weaknesses.contains(&weakness), "{weaknesses:?}");
}

#[test]
fn a_step_that_takes_too_much_cpu_time_is_stopped_and_told() {
    let limits = Limits { cpu: Some(Duration::from_secs(1)), ..Limits::default() };
    let started = Instant::now();
    let (outcome, text) = run(limits, "exec sh -c 'while :; do :; done'");
    assert_eq!(outcome, Outcome::Signalled(nix::libc::SIGXCPU), "{text}");
    assert_eq!(text, "obuild: the step was killed at its limit of 1s of CPU time (--max-cpu)\n");
    assert!(started.elapsed() < LONG);
}

#[test]
fn cpu_time_is_that_of_all_processes_together() {
    let limits = Limits { cpu: Some(Duration::from_millis(1200)), ..Limits::default() };
    if !needs_root() || !has_groups(limits) {
        return;
    }
    // No process takes as much as the limit, nor lives when the next one comes.
    let burn = "timeout 0.4 sh -c 'while :; do :; done'";
    // Many, as they may get little of a busy machine's time.
    let (outcome, text) = run(limits, &format!("for n in $(seq 100); do {burn}; done"));
    assert_eq!(outcome, Outcome::Signalled(nix::libc::SIGXCPU), "{text}");
    let line = "obuild: the step was killed at its limit of 1.2s of CPU time (--max-cpu)\n";
    assert!(text.ends_with(line), "{text}");
}

#[test]
fn a_file_beyond_the_limit_kills_its_writer_and_is_told() {
    let limits = Limits { file_size: Some(1 << 20), ..Limits::default() };
    let (outcome, text) =
        run(limits, "head -c 2097152 /dev/zero > big; s=$?; stat -c %s big; exit $s");
    assert_eq!(outcome, Outcome::Exited(128 + nix::libc::SIGXFSZ), "{text}");
    assert!(text.contains("1048576\n"), "{text}");
    let line = "obuild: the step was killed at its limit of 1 MiB for a file (--max-file-size)\n";
    assert!(text.ends_with(line), "{text}");
}

#[test]
fn a_step_that_starts_too_many_processes_is_told_and_goes_on() {
    let limits = Limits { processes: 20, ..Limits::default() };
    if !needs_root() || !has_groups(limits) {
        return;
    }
    let (outcome, text) =
        run(limits, "(for n in $(seq 40); do sleep 5 & done) 2>/dev/null; exit 0");
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    let line = "obuild: the step could not start another process at its limit of 20 processes (--max-processes)\n";
    assert_eq!(text, line);
}

#[test]
fn the_dead_that_nobody_has_waited_for_count_for_no_step() {
    let limits = Limits { processes: 20, ..Limits::default() };
    if !needs_root() || !has_groups(limits) {
        return;
    }
    let mut user = TestUser::new();
    user.config.limits = limits;
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    assert_eq!(fixture.run(&step("true"), &tree).0, Outcome::Exited(0));
    let dead = || Command::new("true").uid(user.uid()).spawn().unwrap();
    let mut dead: Vec<_> = std::iter::repeat_with(dead).take(60).collect();
    let script = "(for n in $(seq 10); do sleep 5 & done); exit 0";
    assert_eq!(fixture.run(&step(script), &tree), (Outcome::Exited(0), String::new()));
    for child in &mut dead {
        child.wait().unwrap();
    }
}

#[test]
fn limits_that_nobody_meets_are_not_told() {
    let limits = Limits {
        cpu: Some(Duration::from_secs(60)),
        memory: Some(1 << 30),
        processes: 100,
        file_size: Some(1 << 30),
    };
    assert_eq!(run(limits, "echo fine; exit 3"), (Outcome::Exited(3), "fine\n".to_owned()));
}

#[test]
fn a_step_cannot_leave_its_control_group() {
    if !needs_root() || !has_groups(Limits::default()) {
        return;
    }
    let limits = Limits { memory: Some(1 << 30), ..Limits::default() };
    let script = "for f in $(find /sys/fs/cgroup -name tasks -o -name cgroup.procs 2>/dev/null); do
        (echo 0 > $f) 2>/dev/null && echo left to $f; done; cat /proc/self/cgroup";
    let (outcome, text) = run(limits, script);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    assert!(!text.contains("left to") && text.contains("/obuild-"), "{text}");
}
