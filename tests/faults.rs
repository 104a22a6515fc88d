//! Kills at every named point, and at random moments.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use common::ten::{Expected, Ten};
use common::{Running, World, names};
use nix::sys::signal::Signal;
use obuilder_core::fault::{POINTS, RSYNC_POINTS, ZFS_POINTS};

/// Runs `args`; whether it was killed at `point`.
fn killed_at(world: &World, args: &[&str], point: &str, passing: u32) -> bool {
    let mut command = world.command(args);
    command.env("OBUILD_FAULT", format!("{point}:{passing}"));
    Running::start(command).finish().status.signal() == Some(Signal::SIGKILL as i32)
}

/// Goes through all commands until one is killed at `point`, and checks what is left.
fn try_point(point: &str, expected: &Expected) {
    // Not always the first time, which for most steps is that of an empty base.
    for passing in [1, 4] {
        let ten = Ten::new();
        let commands = ten.commands(expected);
        let killed = commands.iter().find(|args| killed_at(&ten.world, args, point, passing));
        assert!(killed.is_some() || passing > 1, "no command passes {point}");
        if let Some(args) = killed {
            ten.check(&format!("{args:?} killed at {point}:{passing}"), expected);
        }
    }
}

/// Each part is a test of its own, so that they may run at once. With `OBUILD_TEST_EVERY=N` it is every Nth point alone.
fn try_part(part: usize, of: usize) {
    let every: usize = std::env::var("OBUILD_TEST_EVERY").map_or(1, |text| text.parse().unwrap());
    let undisturbed = Ten::undisturbed();
    let of_store = if common::pool::wanted() { ZFS_POINTS } else { RSYNC_POINTS };
    let points = POINTS.iter().chain(of_store).skip(part).step_by(of * every);
    points.for_each(|point| try_point(point, &undisturbed));
}

#[test]
fn kills_at_points_1() {
    try_part(0, 3);
}

#[test]
fn kills_at_points_2() {
    try_part(1, 3);
}

#[test]
fn kills_at_points_3() {
    try_part(2, 3);
}

#[test]
fn kills_at_random_moments() {
    let kills = std::env::var("OBUILD_TEST_KILLS").map_or(10, |text| text.parse().unwrap());
    let ten = Ten::new();
    let begun = Instant::now();
    ten.world.run(["build", "small.scm"]).success();
    ten.world.run(ten.build()).success();
    let whole = begun.elapsed();
    let undisturbed = Ten::undisturbed();
    for kill in 0..kills {
        ten.world.run(["clean"]).success();
        let build = ten.world.start(ten.build());
        // Spread over the whole build, and never twice the same.
        std::thread::sleep(whole * (kill * 37 % kills) / kills + whole / 100 * (kill % 7));
        build.signal(Signal::SIGKILL);
        drop(build);
        ten.check(&format!("kill {kill} of {kills}"), &undisturbed);
    }
    ten.world.run(["clean"]).success();
    assert_eq!(names(&ten.world.store().join("result")), [""; 0]);
}
