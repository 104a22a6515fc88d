//! Kills, other processes, full pools, what OBuilder left, and what must not pile up; on real ZFS and on the stand-in.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bstr::BStr;
use obuilder_core::Store;
use obuilder_core::contracts::Base;
use obuilder_core::error::StoreError;
use store_zfs::ZfsStore;

use common::{TestPool, id, open, real, stand_in};

/// What is in the hands of processes or in the trash.
fn leftovers(pool: &TestPool) -> Vec<String> {
    ["/result-tmp", "/cache-tmp", "/trash"].map(|group| pool.names(group)).concat()
}

/// Waits until the background has destroyed what was deleted.
fn eventually_empty(pool: &TestPool) {
    let start = Instant::now();
    while !leftovers(pool).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "left: {:?}", leftovers(pool));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `child_process` below in a process of its own, on the store in `dir`; returns once it has said that it is ready.
fn spawn(dir: &Path, role: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_process", "--exact", "--nocapture"])
        .env("STORE_ZFS_TEST_ROLE", role)
        .env("STORE_ZFS_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("READY")), "the child ended too early");
    child
}

/// Not a test by itself: what the other processes of the tests do.
#[test]
fn child_process() {
    let Ok(role) = std::env::var("STORE_ZFS_TEST_ROLE") else { return };
    let dir = std::env::var_os("STORE_ZFS_TEST_DIR").unwrap();
    let store = open(Path::new(&dir));
    let ready = || {
        std::io::stdout().write_all(b"\nREADY\n").unwrap();
        // Until the parent closes the pipe or kills this process.
        let _ = std::io::stdin().read_line(&mut String::new());
    };
    match role.as_str() {
        "hold" => {
            let _pin = store.result(&id("a")).unwrap().unwrap();
            let _pending = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
            let _lease = store.cache(BStr::new("c")).unwrap();
            ready();
        }
        "churn" => {
            std::io::stdout().write_all(b"\nREADY\n").unwrap();
            for round in 0..1000 {
                make_on(&store, &format!("churn {round}"), Base::Empty);
                let lease = store.cache(BStr::new("c")).unwrap();
                fs::write(lease.dir().join("file"), round.to_string()).unwrap();
                lease.release().unwrap();
            }
        }
        "race" => {
            for round in 0..4 {
                make_on(&store, &format!("race {round}"), Base::Empty);
                store.reconcile(&[]).unwrap();
            }
            ready();
        }
        other => panic!("{other}"),
    }
}

fn make_on(store: &ZfsStore, name: &str, base: Base<'_>) {
    let pending = store.begin(&id(name), base).unwrap();
    fs::write(pending.dir().join("rootfs/file"), name).unwrap();
    pending.commit().unwrap();
}

fn file_of(store: &ZfsStore, name: &str) -> String {
    let result = store.result(&id(name)).unwrap().unwrap();
    fs::read_to_string(result.rootfs().join("file")).unwrap()
}

fn a_living_process_keeps_what_it_holds_and_a_killed_one_nothing(pool: &TestPool) {
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    let mut child = spawn(pool.as_ref(), "hold");
    assert!(matches!(store.delete(&id("a")), Err(StoreError::InUse(_))));
    assert_eq!(store.reconcile(&[id("a")]).unwrap().swept, [""; 0]);
    assert!(leftovers(pool).len() >= 2, "the child's tree and lease");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(store.reconcile(&[id("a")]).unwrap().swept.len(), 2);
    eventually_empty(pool);
    assert!(store.delete(&id("a")).unwrap());
}

fn a_kill_at_any_moment_leaves_whole_results_or_none(pool: &TestPool) {
    for round in 0..4 {
        let mut child = spawn(pool.as_ref(), "churn");
        std::thread::sleep(Duration::from_millis(40 + 130 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(pool.as_ref());
        store.reconcile(&[]).unwrap();
        for id in store.results().unwrap() {
            let result = store.result(&id).unwrap().unwrap();
            assert!(fs::read_to_string(result.rootfs().join("file")).is_ok());
        }
        let lease = store.cache(BStr::new("c")).unwrap();
        fs::write(lease.dir().join("file"), "after the kill").unwrap();
        assert!(lease.release().unwrap());
        eventually_empty(pool);
        assert_eq!(pool.names("/cache"), ["c-c", "c-c@snap"]);
    }
}

fn processes_may_make_the_same_results_and_sweep_at_once(pool: &TestPool) {
    drop(open(pool.as_ref()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut child = spawn(pool.as_ref(), "race");
                drop(child.stdin.take());
                assert!(child.wait().unwrap().success());
            });
        }
    });
    let store = open(pool.as_ref());
    assert_eq!(store.results().unwrap().len(), 4);
    store.reconcile(&[]).unwrap();
    eventually_empty(pool);
}

fn replaced_versions_of_a_cache_do_not_pile_up(pool: &TestPool) {
    let store = open(pool.as_ref());
    let release = |text: &str| {
        let lease = store.cache(BStr::new("c")).unwrap();
        fs::write(lease.dir().join(text), text).unwrap();
        assert!(lease.release().unwrap());
    };
    release("1");
    let old = store.cache(BStr::new("c")).unwrap();
    ["2", "3", "4"].into_iter().for_each(release);
    assert_eq!(fs::read_to_string(old.dir().join("1")).unwrap(), "1", "it is a clone of the first");
    assert!(!old.release().unwrap());
    eventually_empty(pool);
    let start = Instant::now();
    while pool.names("/cache").len() > 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", pool.names("/cache"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let newest = store.cache(BStr::new("c")).unwrap();
    assert!(["1", "2", "3", "4"].iter().all(|name| newest.dir().join(name).exists()));
}

fn a_deleted_base_goes_when_nothing_stands_on_it(pool: &TestPool) {
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    make_on(&store, "b", Base::Result(&id("a")));
    assert!(store.delete(&id("a")).unwrap());
    assert!(store.result(&id("a")).unwrap().is_none());
    assert_eq!(file_of(&store, "b"), "b");
    make_on(&store, "a", Base::Empty);
    assert_eq!(file_of(&store, "a"), "a");
    assert!(store.delete(&id("b")).unwrap());
    eventually_empty(pool);
}

fn what_obuilder_left_is_used(pool: &TestPool) {
    for group in ["state", "result", "cache", "cache-tmp"] {
        pool.zfs(&format!("create POOL/{group}"));
    }
    let (whole, half) = (id("whole"), id("half"));
    for result in [&whole, &half] {
        pool.zfs(&format!("create -o canmount=noauto POOL/result/{result}"));
        pool.zfs(&format!("mount POOL/result/{result}"));
        fs::create_dir(pool.as_ref().join(format!("result/{result}/rootfs"))).unwrap();
        fs::write(pool.as_ref().join(format!("result/{result}/rootfs/file")), "theirs").unwrap();
    }
    pool.zfs(&format!("snapshot -r POOL/result/{whole}@snap"));
    pool.zfs(&format!("unmount POOL/result/{whole}"));
    pool.zfs("create POOL/cache/c-opam");
    fs::write(pool.as_ref().join("cache/c-opam/file"), "theirs").unwrap();
    pool.zfs("unmount POOL/cache/c-opam");
    let store = open(pool.as_ref());
    assert_eq!(store.reconcile(&[]).unwrap().swept, [format!("result/{half}")]);
    assert_eq!(store.results().unwrap(), [whole]);
    assert_eq!(file_of(&store, "whole"), "theirs");
    let lease = store.cache(BStr::new("opam")).unwrap();
    assert_eq!(fs::read_to_string(lease.dir().join("file")).unwrap(), "theirs");
    assert!(lease.release().unwrap());
    make_on(&store, "half", Base::Result(&id("whole")));
    assert_eq!(file_of(&store, "half"), "half");
    eventually_empty(pool);
}

fn homes_and_prefixes_of_a_mac_are_cloned_along(pool: &TestPool) {
    drop(open(pool.as_ref()));
    let base = format!("result/{}", id("mac"));
    pool.zfs(&format!("create -o canmount=noauto POOL/{base}"));
    for (child, at) in [("home", "rootfs"), ("brew", "rootfs/local")] {
        pool.zfs(&format!("create -o canmount=noauto POOL/{base}/{child}"));
        let dir = pool.as_ref().join("filling");
        pool.zfs(&format!("set mountpoint={} POOL/{base}/{child}", dir.display()));
        pool.zfs(&format!("mount POOL/{base}/{child}"));
        fs::write(dir.join("file"), at).unwrap();
        pool.zfs(&format!("unmount POOL/{base}/{child}"));
    }
    pool.zfs(&format!("snapshot -r POOL/{base}@snap"));
    let store = open(pool.as_ref());
    let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let pending = store.begin(&id("next"), Base::Result(&id("mac"))).unwrap();
    assert_eq!(read(pending.dir(), "rootfs/file"), "rootfs");
    assert_eq!(read(pending.dir(), "rootfs/local/file"), "rootfs/local");
    fs::write(pending.dir().join("rootfs/local/more"), "more").unwrap();
    pending.commit().unwrap();
    let made = store.result(&id("next")).unwrap().unwrap();
    assert_eq!(read(&made.rootfs(), "local/more"), "more");
    let made_of = pool.names(&format!("/result/{}", id("next")));
    assert_eq!(made_of, ["brew", "brew@snap", "home", "home@snap"]);
    drop(made);
    assert!(store.delete(&id("next")).unwrap());
    eventually_empty(pool);
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_zfs { $(#[test] fn $name() { if let Some(pool) = super::real() { super::$name(&pool); } })* }
        mod on_stand_in { $(#[test] fn $name() { if let Some(pool) = super::stand_in() { super::$name(&pool); } })* }
    };
}

on_both!(
    a_living_process_keeps_what_it_holds_and_a_killed_one_nothing
    a_kill_at_any_moment_leaves_whole_results_or_none
    processes_may_make_the_same_results_and_sweep_at_once
    replaced_versions_of_a_cache_do_not_pile_up
    a_deleted_base_goes_when_nothing_stands_on_it
    what_obuilder_left_is_used
    homes_and_prefixes_of_a_mac_are_cloned_along
);

/// The stand-in has no room of its own to fill.
#[test]
fn a_full_pool_is_said_and_the_store_stays_usable() {
    let Some(pool) = real() else { return };
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    pool.zfs("set quota=24M POOL");
    let pending = store.begin(&id("big"), Base::Result(&id("a"))).unwrap();
    let mut big = fs::File::create(pending.dir().join("rootfs/big")).unwrap();
    let full =
        (0..64).find_map(|_| big.write_all(&vec![7; 1 << 20]).and_then(|()| big.sync_all()).err());
    let full = StoreError::io("write", full.expect("there is no room for that much"));
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    drop(big);
    // Whatever can be begun and finished now, what cannot says why.
    let tried = store.begin(&id("b"), Base::Result(&id("a"))).and_then(|pending| pending.commit());
    if let Err(error) = tried {
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    }
    pending.discard().unwrap();
    let begun = Instant::now();
    while store.usage().unwrap().free < 8 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(60), "what was discarded is not freed");
        std::thread::sleep(Duration::from_millis(50));
    }
    make_on(&store, "c", Base::Result(&id("a")));
    assert_eq!(file_of(&store, "c"), "c");
}

/// Where the kernel mounts.
#[test]
fn a_step_runs_zfs_three_times() {
    let Some(pool) = real() else { return };
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    let before = store.commands_run();
    let pending = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
    pending.commit().unwrap();
    assert_eq!(file_of(&store, "a"), "a");
    assert_eq!(store.commands_run() - before, 3, "a clone, a snapshot, a rename");
}
