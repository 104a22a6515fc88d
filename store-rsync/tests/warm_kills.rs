//! Trees kept warm by processes that are killed, and on filesystems that must be mounted. Apart from the other tests: a process
//! that is about to become another program still has every lock of the one that starts it.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use obuilder_core::Store;
use obuilder_core::contracts::Base;
use store_rsync::{Mode, RsyncStore};

use common::trees::{assert_apart, assert_same, next, overwrite, random_run, read, rootfs, two};
use common::{id, open_warm, plain, xfs};

#[test]
fn random_runs_equal_plain_copies_with_clones() {
    let Some(place) = xfs() else { return };
    for seed in 10..13 {
        random_run(&place, Mode::Reflink, seed);
        fs::remove_dir_all(place.as_ref().join("store")).unwrap();
    }
}

fn last_of(store: &RsyncStore) -> usize {
    (0..).find(|number| store.result(&id(&format!("kill {number}"))).unwrap().is_none()).unwrap()
        - 1
}

/// Not a test by itself: makes one result after the other until it is killed.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os("STORE_RSYNC_WARM_DIR") else { return };
    let store = open_warm(Path::new(&dir), Mode::Auto);
    let last = last_of(&store);
    std::io::Write::write_all(&mut std::io::stdout(), b"\nREADY\n").unwrap();
    for number in last + 1..last + 10_000 {
        // Now and then on an older one, so that trees change their state.
        let base = if number % 5 == 4 { number - 3 } else { number - 1 };
        next(&store, &format!("kill {base}"), &format!("kill {number}"), |tree| {
            overwrite(&tree.join("7"), &format!("{number:06}"));
            fs::write(tree.join(format!("new {}", number % 10)), number.to_string()).unwrap();
        });
    }
}

#[test]
fn a_kill_at_any_moment_leaves_no_wrong_tree() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let place = plain().unwrap();
    let dir = place.as_ref();
    {
        let store = open_warm(dir, Mode::Auto);
        two(&store, 60);
        next(&store, "b", "kill 0", |tree| overwrite(&tree.join("7"), "000000"));
    }
    let mut checked = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_process", "--exact", "--nocapture"])
            .env("STORE_RSYNC_WARM_DIR", dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("READY")));
        let second = dir.join("store/result").join(id(&format!("kill {}", checked + 2)).as_str());
        let start = Instant::now();
        while !second.exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "the child makes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(5 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open_warm(dir, Mode::Auto);
        store.reconcile(&[]).unwrap();
        let last = last_of(&store);
        for number in checked..=last {
            let name = format!("kill {number}");
            assert_eq!(read(&store, &name, "7"), format!("{number:06}"));
            assert_eq!(read(&store, &name, "8"), "000008");
        }
        for base in [last, last.saturating_sub(3)] {
            let name = id(&format!("kill {base}"));
            let pending = store.begin(&id("after the kill"), Base::Result(&name)).unwrap();
            assert_same(&rootfs(&*pending), &store.result(&name).unwrap().unwrap().rootfs());
            assert_apart(&store, dir, Some(&*pending));
        }
        checked = last;
    }
}
