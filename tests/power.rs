//! Cuts of the power, at every point of a commit: what the index knows then has all its bytes on the disk.
//!
//! The store lies on an ext4 in a file. When the process has been killed at a point, the file is copied while it is still
//! mounted: the copy holds what the disk had been given by then, and nothing that was only in memory.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use common::ten::{Expected, Ten};
use common::{Finished, Running, Volume, skip, trees};
use nix::sys::signal::Signal;

/// The points at which something has been written that matters.
const POINTS: [&str; 17] = [
    "warm-taken",
    "step-worked",
    "release-synced",
    "release-exchanged",
    "release-done",
    "step-described",
    "commit-snapped",
    "commit-moved",
    "commit-shared",
    "commit-synced",
    "commit-renamed",
    "commit-durable",
    "warm-indexed",
    "warm-kept",
    "step-committed",
    "index-adding",
    "step-indexed",
];

/// Copies a file without what it does not hold.
fn copy(from: &Path, to: &Path) {
    let mut command = std::process::Command::new("cp");
    assert!(command.arg("--sparse=always").args([from, to]).status().unwrap().success());
}

fn killed_at(ten: &Ten, point: &str, passing: u32, more: &[&str]) -> Finished {
    let mut command = ten.world.command([&ten.build()[..], more].concat());
    command.env("OBUILD_FAULT", format!("{point}:{passing}"));
    Running::start(command).finish()
}

/// Cuts the power at a point, and gives the world with the disk as it was then.
fn cut(point: &str, passing: u32, more: &[&str]) -> Option<(Ten, Volume)> {
    let ten = Ten::new();
    let (store, image, after) =
        (ten.world.store(), ten.world.path("image"), ten.world.path("after"));
    fs::create_dir(&store).unwrap();
    let Some(volume) = Volume::ext4(&store, &image, 32) else {
        skip("a volume of its own needs root, Linux and mkfs.ext4");
        return None;
    };
    let killed = killed_at(&ten, point, passing, more);
    assert_eq!(killed.status.signal(), Some(Signal::SIGKILL as i32), "{point}: {killed:#?}");
    copy(&image, &after);
    drop(volume);
    let volume = Volume::of_image(&store, &after).unwrap();
    Some((ten, volume))
}

fn nothing_is_lost(point: &str, passing: u32, expected: &Expected) -> bool {
    let Some((ten, _volume)) = cut(point, passing, &[]) else { return false };
    let when = format!("the power was cut at {point}:{passing}");
    // What is there without anybody having put it in order is what the disk holds.
    for (id, held) in trees::results(&ten.world.store()) {
        assert_eq!(Some(&held), expected.results.get(&id), "{when}: {id}");
    }
    ten.check(&when, expected);
    true
}

#[test]
fn whatever_is_announced_is_on_the_disk() {
    let expected = Ten::undisturbed();
    for point in POINTS {
        // Not of the empty base; few steps have caches or trees that are not warm.
        let seldom = point.starts_with("release") || point == "commit-shared";
        let passing = if seldom { 2 } else { 5 };
        if !nothing_is_lost(point, passing, &expected) {
            return;
        }
    }
}

/// The test above would see it if nobody waited for the disk.
#[test]
fn without_waiting_for_the_disk_results_are_lost() {
    let Some((ten, _volume)) = cut("step-indexed", 9, &["--fast-sync"]) else { return };
    let expected = Ten::undisturbed();
    let there = trees::results(&ten.world.store());
    let whole = there.iter().filter(|(id, held)| expected.results.get(*id) == Some(held)).count();
    assert!(whole < 9, "all {whole} results were on the disk at once");
    // A store that has lost everything is one all the same.
    ten.world.run(["clean"]).success();
    ten.check("after --fast-sync", &expected);
}
