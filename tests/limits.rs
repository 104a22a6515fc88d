//! Limits of a step, from the command line to the log; and commands that will not end.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Running, World, root_or_skip};
use nix::sys::signal::Signal;

#[test]
fn a_limit_that_strikes_is_told_in_the_log() {
    let world = World::new();
    let spec =
        world.spec("((from scratch) (run (shell \"exec head -c 2097152 /dev/zero > big\")))");
    let spec = spec.to_str().unwrap();
    let line = "obuild: the step was killed at its limit of 1 MiB for a file (--max-file-size)\n";
    let ended = world.run(["build", "--max-file-size", "1MiB", spec]).code(1).prints(line);
    ended.says("SIGXFSZ");
    let line = "obuild: the step was killed at its limit of 1s of CPU time (--max-cpu)\n";
    let spec = world.spec("((from scratch) (run (shell \"while :; do :; done\")))");
    world.write("config.toml", "max-cpu = \"1s\"\n");
    world.run(["build", spec.to_str().unwrap()]).code(1).prints(line).says("SIGXCPU");
    world.assert_clean();
}

#[test]
fn a_time_limit_that_strikes_is_told() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"echo begun; sleep 600\")))");
    let ended = world.run(["build", "--timeout", "1s", spec.to_str().unwrap()]).code(1);
    ended.prints("begun\n").says("the command was stopped at its time limit of 1");
    world.assert_clean();
}

#[test]
fn limits_are_checked_before_anything_is_done() {
    let world = World::new();
    let spec = world.spec("((from scratch))");
    let spec = spec.to_str().unwrap();
    for (flag, value, wrong) in [
        ("--max-cpu", "5", "`5` is not a time"),
        ("--max-memory", "0", "a step needs more than nothing"),
        ("--max-processes", "none", "`none` is not a number of processes"),
        ("--max-file-size", "big", "`big` is not a size"),
    ] {
        world.run(["build", flag, value, spec]).code(2).says(wrong);
    }
    assert!(!world.store().exists());
}

/// Files of the world's build user in `/tmp`.
fn litter(uid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.symlink_metadata().is_ok_and(|found| found.uid() == uid)).collect()
}

#[test]
fn a_stubborn_step_ends_with_an_interrupted_obuild_and_leaves_nothing() {
    let stubborn = "trap '' HUP INT TERM; touch /tmp/obuild-litter-$$; ipcmk -M 4096 > /dev/null;
        (setsid sh -c 'trap \\\"\\\" TERM; setsid sleep 1000 & sleep 1000' &);
        sleep 1000 & kill -STOP $!; echo begun; while :; do head -c 1G /dev/zero; sleep 1000; done";
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let world = World::new();
        let spec = world.spec(&format!("((from scratch) (run (shell \"{stubborn}\")))"));
        let mut build = world.start(["build", spec.to_str().unwrap()]);
        build.wait_for("begun\n");
        let started = Instant::now();
        build.signal(signal);
        if signal == Signal::SIGKILL {
            build.finish().killed_by(signal);
            world.build_ok("((from scratch) (run (shell \"true\")))");
        } else {
            build.finish().code(130);
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
        world.assert_clean();
        if root_or_skip("a build user with files of its own") {
            assert_eq!(litter(world.uid()), Vec::<PathBuf>::new());
            let objects = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
            let uid = world.uid().to_string();
            assert!(!objects.split_whitespace().any(|field| field == uid), "{objects}");
        }
    }
}

#[test]
fn whoever_starts_obuild_may_ignore_its_children() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"echo hello\")))");
    let mut command = world.command(["build", spec.to_str().unwrap()]);
    let ignore = || {
        // SAFETY: ignoring a signal touches no memory.
        unsafe { nix::libc::signal(nix::libc::SIGCHLD, nix::libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: only a system call is made.
    unsafe { command.pre_exec(ignore) };
    Running::start(command).finish().success().prints("hello\n");
    world.assert_clean();
}
