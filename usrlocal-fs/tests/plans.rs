//! Random plans come out as in a plain directory, for one user and for two at once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use common::plan::{Dice, Place, Step};
use common::{ANN, BEN, Stage, as_user, can_mount};

/// How long random plans go on.
fn duration() -> Duration {
    common::long().unwrap_or(Duration::from_secs(2))
}

/// Does the plan of `seed` here and there and compares every outcome, and all that is there at the end.
fn compare(seed: u64, here: &Path, there: &Path, steps: usize) {
    let mut dice = Dice::new(seed);
    let (mut shown, mut plain) = (Place::new(here), Place::new(there));
    let mut done = Vec::new();
    for number in 0..steps {
        let step = Step::random(&mut dice);
        if rises(&step) || maps_what_runs_as_another(&step, there) {
            continue;
        }
        let (got, want) = (shown.take(&step), plain.take(&step));
        assert!(
            got == want,
            "plan {seed}, step {number}, {step:?}: {got}, but a plain directory {want}\n{}",
            { done.iter().rev().take(12).rev().cloned().collect::<Vec<String>>().join("\n") }
        );
        done.push(format!("{step:?}: {got}"));
    }
    assert_eq!(shown.all(), plain.all(), "after plan {seed}");
}

/// A file that the kernel has in hand loses set-user-id and the like when it is opened to write, where a plain one, which
/// is written through a mapping here, keeps them; see the crate's documentation.
fn maps_what_runs_as_another(step: &Step, there: &Path) -> bool {
    let Step::Map(path, _) = step else { return false };
    there.join(path).metadata().is_ok_and(|meta| meta.mode() & 0o6000 != 0)
}

/// Renaming to the top from below is the one thing that is refused; see the crate's documentation.
fn rises(step: &Step) -> bool {
    let deep = |path: &str| path.contains('/');
    let Step::Rename(from, to, flags) = step else { return false };
    (deep(from) && !deep(to)) || (*flags == 2 && deep(to) && !deep(from))
}

fn plain_directory(stage: &Stage, name: &str, user: u32) -> std::path::PathBuf {
    let plain = stage.at(name);
    fs::create_dir(&plain).unwrap();
    chown(&plain, Some(user), Some(user)).unwrap();
    plain
}

fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Plans right at the top and below it, until the time is over.
fn go_on(stage: &Stage, user: u32, first: u64) {
    let plain = plain_directory(stage, &format!("plain-{user}"), user);
    let begun = Instant::now();
    for seed in first.. {
        let below = if seed % 2 == 0 { "" } else { "below" };
        let (here, there) = (stage.mnt(below), plain.join(below));
        as_user(user, || {
            if !below.is_empty() {
                fs::create_dir(&here).unwrap();
                fs::create_dir(&there).unwrap();
            }
            compare(seed, &here, &there, 120);
        });
        // Root clears up, below the mount, as the plan may have closed directories to their owner.
        empty(&stage.tree(user, ""));
        empty(&plain);
        stage.link(user, &user.to_string());
        if begun.elapsed() > duration() {
            break;
        }
    }
}

#[test]
fn one_users_plans_come_out_as_in_a_plain_directory() {
    if !can_mount() {
        return;
    }
    go_on(&Stage::new(), ANN, 1);
}

#[test]
fn so_they_do_when_reads_and_writes_go_through_the_server() {
    if !can_mount() {
        return;
    }
    go_on(&Stage::with(&["--no-passthrough"]), ANN, 5000);
}

#[test]
fn so_they_do_where_files_have_no_handles() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    let Some(disk) = common::overlay(&stage, ANN) else { return };
    stage.serve_with_files(Some(1024), &[]);
    go_on(&stage, ANN, 20_000);
    drop(stage);
    drop(disk);
}

#[test]
fn two_users_at_once_under_the_same_names_never_meet() {
    if !can_mount() {
        return;
    }
    side_by_side(&Stage::new());
}

#[test]
fn nor_do_they_where_the_top_looks_the_same_to_both() {
    if !can_mount() {
        return;
    }
    side_by_side(&Stage::with(&["--same-top"]));
}

fn side_by_side(stage: &Stage) {
    std::thread::scope(|scope| {
        // The same seeds: the same names at nearly the same time.
        let users = [ANN, BEN].map(|user| scope.spawn(move || go_on(stage, user, 10_000)));
        for user in users {
            user.join().unwrap();
        }
    });
}
