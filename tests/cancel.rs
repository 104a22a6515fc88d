//! Interrupts and kills: nothing half-made stays, nothing is left running, the store goes on.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::World;
use nix::sys::signal::Signal;

const LONG: &str = "((from scratch) (run (shell \"echo first > a\"))
    (run (shell \"echo begun; sleep 600 & sleep 601\")))";

fn started(world: &World) -> common::Running {
    let spec = world.spec(LONG);
    let mut build = world.start(["build", spec.to_str().unwrap()]);
    build.wait_for("begun\n");
    build
}

#[test]
fn an_interrupted_build_stops_cleanly() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let world = World::new();
        let build = started(&world);
        build.signal(signal);
        let finished = build.finish().code(130).says("error: the build was cancelled");
        assert!(finished.elapsed < Duration::from_secs(30), "{finished:#?}");
        world.assert_clean();
        // What was finished stays, what was interrupted does not.
        let spec = LONG.replace("sleep 600 & sleep 601", "true");
        let again = world.build(&spec).success();
        assert_eq!(again.saved().len(), 1, "{again:#?}");
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let world = World::new();
    let mut build = started(&world);
    build.signal(Signal::SIGINT);
    if build.is_running() {
        build.signal(Signal::SIGINT);
    }
    build.finish().code(130);
    world.build_ok("((from scratch) (run (shell \"echo good\")))");
    world.assert_clean();
}

#[test]
fn after_a_kill_the_next_start_puts_everything_in_order() {
    let world = World::new();
    let build = started(&world);
    build.signal(Signal::SIGKILL);
    build.finish().killed_by(Signal::SIGKILL);
    let spec = LONG.replace("sleep 600 & sleep 601", "true");
    let again = world.build(&spec).success();
    assert_eq!(again.saved().len(), 1, "{again:#?}");
    world.assert_clean();
}

#[test]
fn a_kill_at_any_moment() {
    let world = World::new();
    let spec = world.spec(
        "((from scratch) (run (shell \"echo 1 > a; for n in 1 2 3 4 5 6 7 8 9; do mkdir d$n; echo $n > d$n/f; done\"))
          (copy (src data) (dst data)) (run (cache (c (target c))) (shell \"date >> c/dates; cat data/* > all\"))
          (run (shell \"rm -r d1; echo 2 >> a\")) (run (shell \"cat a all\")))",
    );
    for n in 0..20 {
        world.write(&format!("context/data/{n}"), format!("{n}\n"));
    }
    let args = ["build", spec.to_str().unwrap()];
    let begun = Instant::now();
    let expected = world.run(args).success();
    let whole = begun.elapsed();
    world.run(["clean"]).success();
    for moment in 1..=12 {
        let build = world.start(args);
        std::thread::sleep(whole * moment / 12);
        build.signal(Signal::SIGKILL);
        drop(build);
        let listed = world.run(["ls"]).success();
        if moment % 3 == 0 {
            let again = world.run(args).success();
            assert_eq!(again.got(), expected.got(), "{listed:#?}");
            world.run(["log", &again.got()]).success().prints("1\n2\n0\n");
            world.assert_clean();
            world.run(["clean"]).success();
        }
    }
    world.run(args).success();
    world.assert_clean();
}

#[test]
fn the_survivor_of_two_goes_on() {
    let world = World::without_views();
    let go = world.path("context/go");
    let text = format!(
        "((from scratch) (run (shell \"echo begun; until test -e {}; do sleep 0.05; done; echo done > a\")))",
        go.display()
    );
    let spec = world.spec(&text);
    let args = ["build", spec.to_str().unwrap()];
    let mut first = world.start(args);
    first.wait_for("begun\n");
    let second = world.start(args);
    first.signal(Signal::SIGINT);
    first.finish().code(130);
    std::fs::write(go, "").unwrap();
    let id = second.finish().success().got();
    assert_eq!(std::fs::read_to_string(world.result_file(&id, "a")).unwrap(), "done\n");
    world.assert_clean();
}
