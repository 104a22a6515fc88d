//! Several build users: steps at once, in one process and in several.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::time::{Duration, Instant};

use common::{BOUND, Running, World, root_or_skip};
use nix::sys::signal::Signal;

/// A spec with one step that tells `name` and then sleeps for long.
fn sleeper(world: &World, name: &str) -> String {
    let text = format!("((from scratch) (run (shell \"echo {name}; sleep 600\")))");
    world.write(&format!("context/{name}.scm"), text).display().to_string()
}

fn interrupt(running: Vec<Running>) {
    running.iter().for_each(|build| build.signal(Signal::SIGINT));
    running.into_iter().for_each(|build| drop(build.finish().code(130)));
}

#[test]
fn builds_in_two_processes_share_the_pool() {
    if !root_or_skip("a pool of build users") {
        return;
    }
    let world = World::with_slots(2);
    let mut builds: Vec<_> =
        ["one", "two"].iter().map(|name| world.start(["build", &sleeper(&world, name)])).collect();
    builds[0].wait_for("one\n");
    builds[1].wait_for("two\n");
    assert!(builds.iter_mut().all(Running::is_running));
    let late = world.start(["build", "--timeout=1s", &sleeper(&world, "late")]);
    let begun = Instant::now();
    // It must have had the time to say so.
    while begun.elapsed() < Duration::from_millis(300) {
        std::thread::sleep(Duration::from_millis(10));
    }
    interrupt(builds);
    let late = late.finish().code(1);
    late.says("all 2 slots run other steps").says("time limit of 1 s");
    assert_eq!(world.processes(), Vec::<String>::new());
}

#[test]
fn nested_builds_run_at_once() {
    if !root_or_skip("a pool of build users") {
        return;
    }
    let world = World::with_slots(2);
    let nested = |name: &str| {
        format!("(build {name} ((from scratch) (run (shell \"echo {name} begins; sleep 600\"))))")
    };
    let text = format!("({} {} (from scratch))", nested("one"), nested("two"));
    let spec = world.spec(&text);
    let build = world.start(["build", "--progress=json", spec.to_str().unwrap()]);
    let mut build = build;
    for name in ["one begins", "two begins"] {
        build.wait_for(&format!("{name}\\n"));
    }
    interrupt(vec![build]);
    assert_eq!(world.processes(), Vec::<String>::new());
}

#[test]
fn whichever_slot_runs_it_the_result_is_the_same() {
    if !root_or_skip("a pool of build users") {
        return;
    }
    let tell = "((from scratch) (run (shell \"echo $USER $LOGNAME $HOME > who; pwd >> who\")))";
    let world = World::with_slots(2);
    let mut busy = world.start(["build", &sleeper(&world, "busy")]);
    busy.wait_for("busy\n");
    let id = world.build_ok(tell);
    let first = std::fs::read_to_string(world.result_file(&id, "who")).unwrap();
    interrupt(vec![busy]);
    world.run(["build", "--no-cache", world.spec(tell).to_str().unwrap()]).success().prints(&id);
    let second = std::fs::read_to_string(world.result_file(&id, "who")).unwrap();
    assert_eq!(first, second);
}

#[test]
fn what_a_killed_build_left_running_is_ended_by_the_next_start() {
    if !root_or_skip("a pool of build users") {
        return;
    }
    for slots in [1, 2] {
        let world = World::with_slots(slots);
        world.build_ok("((from scratch))");
        let mut build = world.start(["build", &sleeper(&world, "victim")]);
        build.wait_for("victim\n");
        assert!(!world.processes().is_empty(), "it sleeps");
        // It sleeps on, until any obuild on this machine starts; that may be another test's.
        build.signal(Signal::SIGKILL);
        drop(build.finish().killed_by(Signal::SIGKILL));
        // All of it comes from the cache, so no step takes a build user.
        world.build_ok("((from scratch))");
        let deadline = Instant::now() + BOUND;
        while !world.processes().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", world.processes());
        }
        world.assert_clean();
    }
}

#[test]
fn build_users_are_made_and_removed() {
    if !root_or_skip("making users") {
        let world = World::new();
        world.run(["setup"]).code(2).says("build users can be made by root alone");
        return;
    }
    let world = World::with_slots(2);
    world.run(["setup", "--remove"]).success().prints("there is no build user");
    for _ in 0..2 {
        world.run(["setup"]).success().prints("is there\n");
    }
    let first = world.run(["setup", "--slots=1", "--remove"]).success();
    assert_eq!(first.stdout.lines().count(), 2, "whatever the number of slots is now: {first:?}");
    let mut busy = world.start(["build", &sleeper(&world, "busy")]);
    busy.wait_for("busy\n");
    interrupt(vec![busy]);
    let removed = world.run(["setup", "--remove"]).success();
    assert_eq!(removed.stdout.lines().count(), 1, "{removed:?}");
    world.run(["setup", "--slots=0"]).code(2).says("`0` is not a number from 1 to 256");
    world.run(["setup", "--slots=2", "--uid=4294967294"]).code(2).says("there are no 2 users");
}
