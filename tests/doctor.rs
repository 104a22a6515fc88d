//! `obuild doctor`: what it finds, what it leaves alone, and what it prints for programs.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use common::{Volume, World, root_or_skip};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The report of `obuild doctor`, which ends with `code`.
fn report<const N: usize>(world: &World, arguments: [&str; N], code: i32) -> Value {
    let all = ["doctor", "--json"].into_iter().chain(arguments);
    serde_json::from_str(&world.run(all).code(code).stdout).unwrap()
}

fn checks<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    let all = report["checks"].as_array().unwrap();
    all.iter().filter(|check| check["name"] == name).collect()
}

/// The one check of that name.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = checks(report, name);
    assert_eq!(found.len(), 1, "{name}: {report:#}");
    found[0]
}

/// Every path below `dir` with its time.
fn listing(dir: &Path) -> Vec<(String, SystemTime)> {
    let mut all = Vec::new();
    for name in common::names(dir) {
        let path = dir.join(&name);
        let found = path.symlink_metadata().unwrap();
        all.push((path.display().to_string(), found.modified().unwrap()));
        if found.is_dir() {
            all.extend(listing(&path));
        }
    }
    all
}

#[test]
fn doctor_says_what_is_in_force() {
    let world = World::new();
    let doctor = world.run(["doctor"]).success();
    let doctor =
        doctor.prints("isolation").prints("free space").prints("is made by the first build");
    assert!(!world.store().exists(), "looking changes nothing: {doctor:#?}");
    world.build_ok("((from scratch) (run (shell \"echo x\")))");
    world.run(["doctor"]).success().prints("mode ");
    let file = world.write("file", "");
    let store = format!("--store=rsync:{}", file.display());
    world.run(["doctor", &store]).code(3).prints("is no directory");
    world.run(["doctor", "--home=/proc/home"]).code(3).prints("is on another volume");
}

#[test]
fn the_report_is_as_documented() {
    let docs = include_str!("../docs/doctor.md");
    let world = World::new();
    let healthy = report(&world, [], 0);
    assert_eq!(healthy["healthy"], true, "{healthy:#}");
    for check in healthy["checks"].as_array().unwrap() {
        let name = check["name"].as_str().unwrap();
        assert!(docs.contains(&format!("`{name}`")), "docs/doctor.md lacks `{name}`");
        assert_eq!(check.as_object().unwrap().len(), 4, "{check}");
        assert!(["ok", "weak"].contains(&check["status"].as_str().unwrap()), "{check}");
        assert!(!check["finding"].as_str().unwrap().is_empty());
        assert_eq!(check["remedy"].is_null(), check["status"] == "ok", "{check}");
    }
    let broken = report(&world, ["--home=/proc/home"], 3);
    assert_eq!(broken["healthy"], false);
    assert_eq!(check(&broken, "one volume")["status"], "broken");
}

#[test]
fn looking_changes_nothing() {
    let world = World::new();
    world.build_ok("((from scratch) (run (shell \"echo x > y\")))");
    let before = listing(&world.store());
    report(&world, [], 0);
    // A file without a name comes and goes in the store's own directory.
    let files =
        |all: Vec<(String, SystemTime)>| all.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(files(listing(&world.store())), files(before));
}

#[test]
fn a_choice_of_less_is_told() {
    let world = World::new();
    let found = report(&world, ["--isolation=users"], 0);
    let isolation = check(&found, "isolation");
    assert_eq!(isolation["status"], "weak", "{isolation}");
    if root_or_skip("a build user") {
        assert!(isolation["remedy"].as_str().unwrap().contains("--isolation=full"));
    }
    world.run(["doctor", "--isolation=none"]).code(2).says("neither `full` nor `users`");
}

#[test]
fn every_slot_has_its_user() {
    let world = World::new();
    let report = report(&world, ["--slots=3", "--uid=40990"], 0);
    let users = checks(&report, "build user");
    if root_or_skip("a build user") {
        assert_eq!(users.len(), 3);
        assert!(users[2]["finding"].as_str().unwrap().contains("40992"), "{users:?}");
        let taken = self::report(&world, ["--uid=1"], 3);
        assert_eq!(check(&taken, "build user")["status"], "broken");
    } else {
        assert!(users.is_empty());
    }
}

#[test]
fn a_running_step_is_no_leftover_and_a_killed_one_is() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"touch file; echo begun; sleep 600\")))");
    let mut build = world.start(["build", spec.to_str().unwrap()]);
    build.wait_for("begun\n");
    let now = report(&world, [], 0);
    assert_eq!(check(&now, "leftovers")["status"], "ok", "{now:#}");
    build.signal(Signal::SIGKILL);
    build.finish().killed_by(Signal::SIGKILL);
    let left = report(&world, [], 0);
    let found: Vec<_> = checks(&left, "leftovers").iter().map(|one| one.to_string()).collect();
    let home = world.store().join("home");
    let has = |part: &str| found.iter().any(|one| one.contains(part));
    assert!(has(&format!("`{}` was left by a step", home.display())), "{found:?}");
    if nix::unistd::geteuid().is_root() {
        assert!(has("runs no step, and has processes"), "{found:?}");
        assert!(has("pkill -KILL -u"), "{found:?}");
    }
    world.run(["healthcheck"]).success();
    let cleared = report(&world, [], 0);
    assert_eq!(check(&cleared, "leftovers")["status"], "ok", "{cleared:#}");
    world.assert_clean();
}

#[test]
fn what_could_not_be_removed_is_named() {
    let world = World::new();
    world.write("store/home.stuck-3/file", "");
    fs::create_dir(world.path("store/home.stuck-x")).unwrap();
    let found = report(&world, [], 0);
    let left = check(&found, "leftovers");
    assert!(
        left["finding"].as_str().unwrap().ends_with("home.stuck-3` could not be removed"),
        "{left}"
    );
    assert!(left["remedy"].as_str().unwrap().contains("rm -rf"), "{left}");
}

#[test]
fn a_mount_below_the_home_is_told() {
    if !root_or_skip("a mount") {
        return;
    }
    let world = World::new();
    let point = world.path("store/home/mnt");
    fs::create_dir_all(&point).unwrap();
    let Some(_volume) = Volume::small(&point, "1m") else { return };
    let found = report(&world, [], 0);
    let text = format!("{found}");
    assert!(text.contains(&format!("something is mounted at `{}`", point.display())), "{found:#}");
}

#[test]
fn a_volume_without_sharing_is_weak() {
    let world = World::new();
    let point = world.path("volume");
    fs::create_dir(&point).unwrap();
    let Some(_volume) = Volume::small(&point, "8m") else {
        common::skip("a volume of its own needs root");
        return;
    };
    let store = format!("--store=rsync:{}", point.join("store").display());
    let found = report(&world, [&store], 0);
    // Memory shares no blocks, and has less room than a build wants.
    assert_eq!(check(&found, "copy-on-write")["status"], "weak", "{found:#}");
    assert_eq!(check(&found, "free space")["status"], "weak", "{found:#}");
    assert_eq!(check(&found, "file times")["status"], "ok", "{found:#}");
    assert!(common::names(&point).is_empty(), "nothing stays on it");
}
