//! Pools that OBuilder works in too: what it has made is used, what it is working in is left alone, and it finds what it looks for in
//! what we have made.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bstr::BStr;
use obuilder_core::contracts::Base;
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel, Fetcher, Store};
use store_zfs::{Put, ZfsFetcher, ZfsStore};

use common::{BOUND, TestPool, id, leftovers, open, open_by_command, real, stand_in};

/// Waits until the background has destroyed what was deleted.
fn eventually_empty(pool: &TestPool) {
    let begun = Instant::now();
    while !leftovers(pool.as_ref()).is_empty() {
        assert!(begun.elapsed() < BOUND, "left: {:?}", leftovers(pool.as_ref()));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_groups(pool: &TestPool) {
    for group in ["state", "result", "cache", "cache-tmp"] {
        pool.zfs(&format!("create POOL/{group}"));
    }
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

/// A result, or an image, as OBuilder leaves it on a Mac: its children would be mounted by themselves, if they had a mount point.
fn make_as_obuilder(pool: &TestPool, result: &str) {
    pool.zfs(&format!("create -o canmount=noauto POOL/{result}"));
    pool.zfs(&format!("mount POOL/{result}"));
    fs::create_dir_all(pool.as_ref().join(result).join("rootfs")).unwrap();
    pool.zfs(&format!("unmount POOL/{result}"));
    let dir = pool.as_ref().join("users");
    for child in ["home", "brew"] {
        pool.zfs(&format!("create -o mountpoint=none POOL/{result}/{child}"));
        pool.zfs(&format!("set mountpoint={} POOL/{result}/{child}", dir.display()));
        fs::write(dir.join("file"), child).unwrap();
        if child == "home" {
            fs::create_dir(dir.join("local")).unwrap();
        }
        pool.zfs(&format!("set mountpoint=none POOL/{result}/{child}"));
    }
    pool.zfs(&format!("snapshot -r POOL/{result}@snap"));
}

fn results_of_obuilder_on_a_mac_are_read_and_left_as_they_were(pool: &TestPool) {
    let store = open_by_command(pool.as_ref());
    let path = format!("result/{}", id("mac"));
    make_as_obuilder(pool, &path);
    let of = |child: &str| {
        let listed =
            pool.zfs(&format!("list -Hp -o mounted,mountpoint,canmount POOL/{path}/{child}"));
        listed.trim().to_owned()
    };
    for _ in 0..2 {
        let result = store.result(&id("mac")).unwrap().unwrap();
        let read = |name: &str| fs::read_to_string(result.rootfs().join(name)).unwrap();
        assert_eq!((read("file"), read("local/file")), ("home".to_owned(), "brew".to_owned()));
        drop(result);
        // Neither a boot nor a new mount point mounts it.
        assert_eq!(of("home"), "no\tnone\tnoauto");
        assert_eq!(of("brew"), "no\tnone\tnoauto");
    }
    let pending = store.begin(&id("next"), Base::Result(&id("mac"))).unwrap();
    assert_eq!(fs::read_to_string(pending.dir().join("rootfs/local/file")).unwrap(), "brew");
    pending.commit().unwrap();
    assert!(store.delete(&id("next")).unwrap());
    eventually_empty(pool);
}

/// The commands that OBuilder runs on a Mac for a step on the result at `from`.
fn step_of_obuilder(pool: &TestPool, from: &str, to: &str) {
    pool.zfs(&format!("clone -o canmount=noauto POOL/{from}@snap POOL/{to}"));
    pool.zfs(&format!("mount POOL/{to}"));
    for child in ["home", "brew"] {
        pool.zfs(&format!("clone -o mountpoint=none POOL/{from}/{child}@snap POOL/{to}/{child}"));
        let place = pool.as_ref().join(format!("seen-{child}"));
        pool.zfs(&format!("set mountpoint={} POOL/{to}/{child}", place.display()));
        assert_eq!(read(&place, "file"), child);
    }
}

fn unmount_whole(pool: &TestPool, path: &str) {
    for child in ["/brew", "/home", ""] {
        pool.zfs(&format!("unmount POOL/{path}{child}"));
    }
}

fn images_with_homes_are_cloned(pool: &TestPool) {
    clone_image(pool, open);
}

fn images_with_homes_are_cloned_by_command(pool: &TestPool) {
    clone_image(pool, open_by_command);
}

fn clone_image(pool: &TestPool, open: fn(&Path) -> ZfsStore) {
    let store = open(pool.as_ref());
    pool.zfs("create POOL/base-image");
    make_as_obuilder(pool, "base-image/mac");
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let fetch = |dir: &Path| {
        let rootfs = dir.join("rootfs");
        ZfsFetcher::new(&store).fetch(BStr::new("mac"), &rootfs, &log, &Cancel::new()).unwrap();
        assert_eq!(read(&rootfs, "local/file"), "brew");
    };
    let pending = store.begin(&id("thrown away"), Base::Empty).unwrap();
    fetch(pending.dir());
    pending.discard().unwrap();
    let pending = store.begin(&id("mac"), Base::Empty).unwrap();
    fetch(pending.dir());
    fs::write(pending.dir().join("env"), "((env ()))").unwrap();
    pending.commit().unwrap();
    let path = format!("result/{}", id("mac"));
    assert_eq!(pool.names(&format!("/{path}")), ["brew", "brew@snap", "home", "home@snap"]);
    for child in ["home", "brew"] {
        let origin = pool.zfs(&format!("list -Hp -o origin POOL/{path}/{child}"));
        let image = format!("{}/base-image/mac/{child}@snap", pool.place.pool);
        assert_eq!(origin.trim(), image, "it is copied");
    }
    let made = store.result(&id("mac")).unwrap().unwrap();
    assert_eq!(
        (read(&made.rootfs(), "file"), read(made.dir(), "env").len()),
        ("home".to_owned(), 10)
    );
    drop(made);
    let pending = store.begin(&id("next"), Base::Result(&id("mac"))).unwrap();
    assert_eq!(read(pending.dir(), "rootfs/local/file"), "brew");
    pending.commit().unwrap();
    step_of_obuilder(pool, &format!("result/{}", id("next")), &format!("result/{}", id("theirs")));
    // It has not been made by way of a copy elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("rootfs")).unwrap();
    fetch(elsewhere.path());
    eventually_empty(pool);
    unmount_whole(pool, &format!("result/{}", id("theirs")));
}

fn images_are_put_where_obuilder_looks_for_them(pool: &TestPool) {
    put_image(pool, open);
}

fn images_are_put_by_command(pool: &TestPool) {
    put_image(pool, open_by_command);
}

fn put_image(pool: &TestPool, open: fn(&Path) -> ZfsStore) {
    let store = open(pool.as_ref());
    let images = ZfsFetcher::new(&store);
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("local")).unwrap();
    let put = |version: &str| {
        fs::write(tree.path().join("file"), "home").unwrap();
        fs::write(tree.path().join("local/file"), "brew").unwrap();
        fs::write(tree.path().join("mark"), version).unwrap();
        images.put("mac", tree.path(), "mark", &Cancel::new()).unwrap()
    };
    assert_eq!(put("1"), Put::New);
    assert_eq!(put("1"), Put::Unchanged);
    let names = || pool.names("/base-image/mac");
    let whole = ["brew", "brew@snap", "home", "home@snap"];
    assert_eq!(names(), whole);
    assert_eq!(images.names().unwrap(), ["mac"]);
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let import = |name: &str| {
        let pending = store.begin(&id(name), Base::Empty).unwrap();
        let rootfs = pending.dir().join("rootfs");
        images.fetch(BStr::new("mac"), &rootfs, &log, &Cancel::new()).unwrap();
        pending.commit().unwrap();
    };
    import("first");
    let before = images.fingerprint(BStr::new("mac"), None).unwrap();
    assert_eq!(put("2"), Put::Replaced);
    assert_ne!(images.fingerprint(BStr::new("mac"), None).unwrap().digest, before.digest);
    assert_eq!(names(), whole);
    import("second");
    for (name, version) in [("first", "1"), ("second", "2")] {
        let result = store.result(&id(name)).unwrap().unwrap();
        let found = ["mark", "local/file"].map(|file| read(&result.rootfs(), file));
        assert_eq!(found, [version.to_owned(), "brew".to_owned()]);
    }
    let result = format!("result/{}", id("theirs"));
    step_of_obuilder(pool, &format!("result/{}", id("second")), &result);
    unmount_whole(pool, &result);
    pool.zfs(&format!("snapshot -r POOL/{result}@snap"));
    let begun = Instant::now();
    while leftovers(pool.as_ref()).len() > 1 {
        assert!(begun.elapsed() < BOUND, "left: {:?}", leftovers(pool.as_ref()));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(leftovers(pool.as_ref()).len(), 1, "the old one waits");
    assert!(store.delete(&id("first")).unwrap());
    eventually_empty(pool);
    let cancel = Cancel::new();
    cancel.cancel();
    fs::write(tree.path().join("mark"), "3").unwrap();
    let stopped = images.put("mac", tree.path(), "mark", &cancel);
    assert!(matches!(stopped, Err(FetchError::Cancelled(_))), "{stopped:?}");
    assert!(images.put("a b", tree.path(), "mark", &Cancel::new()).is_err());
    eventually_empty(pool);
    assert_eq!(names(), whole);
    let mounted = pool.zfs("list -Hp -r -o name,mounted POOL/base-image/mac");
    assert!(!mounted.contains("yes"), "{mounted}");
}

/// A process that works in `dir`.
struct Worker(Child);

impl Worker {
    fn of(dir: &Path) -> Self {
        Self(Command::new("sleep").arg("600").current_dir(dir).spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn what_a_live_obuilder_works_in_is_left_alone(pool: &TestPool) {
    make_groups(pool);
    let half = format!("result/{}", id("half"));
    for path in [half.as_str(), "cache-tmp/0-c-opam"] {
        pool.zfs(&format!("create -o canmount=noauto POOL/{path}"));
        pool.zfs(&format!("mount POOL/{path}"));
        fs::create_dir(pool.as_ref().join(path).join("rootfs")).unwrap();
    }
    let paths = [half.clone(), "cache-tmp/0-c-opam".to_owned()];
    let workers: Vec<_> = paths.iter().map(|path| Worker::of(&pool.as_ref().join(path))).collect();
    let store = open(pool.as_ref());
    assert!(store.reconcile(&[]).unwrap().unknown.is_empty());
    assert!(store.result(&id("half")).unwrap().is_none(), "it is not finished");
    assert!(
        store.check(true, false).unwrap().iter().any(|one| one.what.contains("never finished"))
    );
    drop(store);
    for path in &paths {
        assert!(pool.as_ref().join(path).join("rootfs").is_dir(), "`{path}` is out of its sight");
        assert_eq!(pool.zfs(&format!("list -Hp -o mounted POOL/{path}")), "yes\n");
    }
    drop(workers);
    let store = open(pool.as_ref());
    assert!(store.reconcile(&[]).unwrap().swept.contains(&half));
    eventually_empty(pool);
    assert_eq!(pool.names("/result"), Vec::<String>::new());
}

/// The kernel mounts each of them by itself.
#[test]
fn what_a_killed_process_has_mounted_in_part_is_mounted_whole() {
    let Some(pool) = real() else { return };
    let store = open(pool.as_ref());
    let path = format!("result/{}", id("mac"));
    make_as_obuilder(&pool, &path);
    let (dir, source) = (pool.as_ref().join(&path), format!("{}/{path}@snap", pool.place.pool));
    fs::create_dir_all(&dir).unwrap();
    let mounted = Command::new("mount").args(["-t", "zfs", &source]).arg(&dir).status().unwrap();
    assert!(mounted.success());
    let result = store.result(&id("mac")).unwrap().unwrap();
    assert_eq!(read(&result.rootfs(), "local/file"), "brew");
}

/// It removes `cache-tmp` whenever it begins, and makes it anew.
fn a_pool_of_an_obuilder_that_was_killed_at_its_start_is_opened(pool: &TestPool) {
    for group in ["state", "result", "cache"] {
        pool.zfs(&format!("create POOL/{group}"));
    }
    assert!(common::try_open(pool.as_ref()).is_err());
    fs::create_dir(pool.as_ref().join("state/db")).unwrap();
    fs::write(pool.as_ref().join("state/db/db.sqlite"), "").unwrap();
    pool.zfs("create POOL/trash");
    assert!(common::try_open(pool.as_ref()).is_err(), "OBuilder has no `trash`");
    pool.zfs("destroy POOL/trash");
    open(pool.as_ref());
}

/// Has the stand-in write each command to the file that this gives.
fn note_calls(pool: &TestPool) -> PathBuf {
    let calls = pool.program.with_file_name("calls");
    let script = fs::read_to_string(&pool.program).unwrap();
    let noted = format!("echo \"$*\" >>'{}'; exec", calls.display());
    fs::write(&pool.program, script.replace("exec", &noted)).unwrap();
    calls
}

#[test]
fn what_else_is_in_the_pool_is_not_listed() {
    let Some(pool) = stand_in() else { return };
    drop(open(pool.as_ref()));
    let calls = note_calls(&pool);
    let store = open(pool.as_ref());
    store.reconcile(&[]).unwrap();
    store.check(false, false).unwrap();
    drop(store);
    let calls = fs::read_to_string(calls).unwrap();
    let whole = |call: &&str| call.contains(" -r ") && call.split(' ').any(|word| word == "tank");
    assert_eq!(calls.lines().find(whole), None);
    assert!(calls.lines().any(|call| call.contains(" -r ")), "{calls}");
}

fn what_lay_beside_a_tree_goes_with_its_maker(pool: &TestPool) {
    let leave = |name: &str| {
        let made = pool.as_ref().join(format!("state/obuild-zfs/made/{}-1-0123abcd-2", id(name)));
        fs::create_dir_all(made.join("rootfs")).unwrap();
        fs::write(made.join("log"), "said").unwrap();
        let pin = pool.as_ref().join(format!("state/obuild-zfs/pins/result-{}", id(name)));
        fs::write(&pin, "").unwrap();
        [made, pin]
    };
    drop(open(pool.as_ref()));
    let left = leave("a");
    let store = open(pool.as_ref());
    store.reconcile(&[]).unwrap();
    assert_eq!(left.iter().find(|path| path.exists()), None);
    let left = leave("b");
    assert_eq!(store.check(true, false).unwrap().len(), 2);
    assert_eq!(left.iter().find(|path| path.exists()), None);
    assert_eq!(store.check(false, false).unwrap(), []);
}

/// What a process has seen of a result holds no longer once another has made it anew.
fn results_that_others_make_anew_are_looked_at_anew(pool: &TestPool) {
    let base = id("base");
    let path = format!("result/{base}");
    let (store, other) = (open_by_command(pool.as_ref()), open_by_command(pool.as_ref()));
    let make = |store: &ZfsStore, name: &str| {
        let pending = store.begin(&id(name), Base::Empty).unwrap();
        fs::write(pending.dir().join("rootfs/file"), "ours").unwrap();
        pending.commit().unwrap();
    };
    let next = || {
        let pending = store.begin(&id("next"), Base::Result(&base)).unwrap();
        let found = ["file", "local/file"].map(|name| {
            fs::read_to_string(pending.dir().join("rootfs").join(name)).unwrap_or_default()
        });
        pending.discard().unwrap();
        found
    };
    make(&store, "base");
    assert_eq!(next(), ["ours", ""]);
    assert!(other.delete(&base).unwrap());
    eventually_empty(pool);
    make_as_obuilder(pool, &path);
    assert_eq!(next(), ["home", "brew"], "it has a `brew` by now");
    pool.zfs(&format!("destroy -r POOL/{path}"));
    make(&store, "base");
    // Behind our back.
    pool.zfs(&format!("destroy -r POOL/{path}"));
    pool.zfs(&format!("create -o canmount=noauto POOL/{path}"));
    pool.zfs(&format!("snapshot POOL/{path}@snap"));
    assert_eq!(next(), ["", ""]);
    eventually_empty(pool);
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_zfs { $(#[test] fn $name() { if let Some(pool) = super::real() { super::$name(&pool); } })* }
        mod on_stand_in { $(#[test] fn $name() { if let Some(pool) = super::stand_in() { super::$name(&pool); } })* }
    };
}

on_both!(
    results_of_obuilder_on_a_mac_are_read_and_left_as_they_were
    images_with_homes_are_cloned
    images_with_homes_are_cloned_by_command
    images_are_put_where_obuilder_looks_for_them
    images_are_put_by_command
    what_a_live_obuilder_works_in_is_left_alone
    a_pool_of_an_obuilder_that_was_killed_at_its_start_is_opened
    what_lay_beside_a_tree_goes_with_its_maker
    results_that_others_make_anew_are_looked_at_anew
);
