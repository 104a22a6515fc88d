//! Kills between any two commands: after each of them, what is there is whole, and the next process puts the rest in order.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use bstr::BStr;
use obuilder_core::contracts::Base;
use obuilder_core::fault;
use obuilder_core::{BuildLog, Cancel, Fetcher, Store};
use store_zfs::{ZfsFetcher, ZfsStore};

use common::{BOUND, TestPool, id, leftovers, real, stand_in};

const PLACE: &str = "STORE_ZFS_TEST_PLACE";
const REPLACED: &str = "STORE_ZFS_TEST_REPLACED";
const COMMAND: &str = "STORE_ZFS_TEST_COMMAND";

/// More commands than the whole sequence takes.
const MOST: u32 = 400;

fn write_in(dir: &Path, text: &str) {
    fs::write(dir.join("file"), text).unwrap();
}

/// Puts a base image there, or in the place of the one before.
fn put_image(store: &ZfsStore, text: &str) {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("local")).unwrap();
    write_in(tree.path(), text);
    write_in(&tree.path().join("local"), text);
    ZfsFetcher::new(store).put("image", tree.path(), "file", &Cancel::new()).unwrap();
}

/// Fetches it; gives what it holds.
fn fetch_image(store: &ZfsStore) -> String {
    let pending = store.begin(&id("image"), Base::Empty).unwrap();
    let rootfs = pending.dir().join("rootfs");
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let images = ZfsFetcher::new(store);
    images.fetch(BStr::new("image"), &rootfs, &log, &Cancel::new()).unwrap();
    let held = file(&rootfs).unwrap();
    assert_eq!(file(&rootfs.join("local")).unwrap(), held, "parts of two images");
    pending.discard().unwrap();
    held
}

/// What is there before anybody is killed.
fn prepare(store: &ZfsStore) {
    put_image(store, "0");
    let pending = store.begin(&id("base"), Base::Empty).unwrap();
    write_in(&pending.dir().join("rootfs"), "base");
    pending.commit().unwrap();
    let lease = store.cache(BStr::new("c")).unwrap();
    write_in(lease.dir(), "0");
    lease.release().unwrap();
}

/// Everything that can be done to a store.
fn sequence(store: &ZfsStore) {
    store.reconcile(&[]).unwrap();
    for text in ["1", "2"] {
        put_image(store, text);
        assert_eq!(fetch_image(store), text);
    }
    let pending = store.begin(&id("next"), Base::Result(&id("base"))).unwrap();
    write_in(&pending.dir().join("rootfs"), "next");
    let lease = store.cache(BStr::new("c")).unwrap();
    write_in(lease.dir(), "1");
    lease.release().unwrap();
    pending.commit().unwrap();
    let pin = store.result(&id("next")).unwrap();
    for _ in 0..2 {
        let pending = store.begin(&id("bad"), Base::Result(&id("next"))).unwrap();
        write_in(&pending.dir().join("rootfs"), "bad");
        pending.keep().unwrap();
    }
    store.begin(&id("other"), Base::Empty).unwrap().discard().unwrap();
    drop(pin);
    store.delete(&id("bad")).unwrap();
    store.delete(&id("next")).unwrap();
}

/// Not a test by itself: the process that is killed.
#[test]
fn child_process() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let command = std::env::var(COMMAND).unwrap().parse().unwrap();
    fault::arm("zfs-ran", command);
    sequence(&open(Path::new(&place)));
}

/// The kernel mounts if it can.
fn open(place: &Path) -> ZfsStore {
    common::open(place)
}

/// Whether the sequence was killed after its `command`th command.
fn killed_after(pool: &TestPool, command: u32) -> bool {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["child_process", "--exact", "--nocapture"])
        .env(PLACE, pool.as_ref())
        .env(COMMAND, command.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let killed = child.status.signal().is_some();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(killed || child.status.success(), "command {command}: {said}");
    killed
}

/// Has the stand-in wait before it moves a version of a cache to the trash. It says so by the first of the files that this gives, and
/// goes on when the second is there.
fn slow_down(pool: &TestPool) -> [PathBuf; 2] {
    let [asked, go] = ["asked", "go"].map(|name| pool.program.with_file_name(name));
    let script = fs::read_to_string(&pool.program).unwrap();
    let slow = format!(
        "case \"$1 $3\" in 'rename tank/trash/'*)\ntouch '{}'; n=0\n\
         while [ ! -e '{}' ] && [ $n -lt 2000 ]; do n=$((n + 1)); sleep 0.05; done;;\nesac\nexec",
        asked.display(),
        go.display()
    );
    fs::write(&pool.program, script.replace("exec", &slow)).unwrap();
    [asked, go]
}

/// Not a test by itself: the process that is killed while its command runs on.
#[test]
fn child_that_replaces_a_cache() {
    let Some(place) = std::env::var_os(REPLACED) else { return };
    let store = open(Path::new(&place));
    let lease = store.cache(BStr::new("c")).unwrap();
    write_in(lease.dir(), "1");
    lease.release().unwrap();
}

/// Nobody ends what somebody began while a command of theirs is still under way: it would come too late.
#[test]
fn what_a_killed_process_has_told_the_stand_in_is_waited_for() {
    let Some(pool) = stand_in() else { return };
    prepare(&open(pool.as_ref()));
    let [asked, go] = slow_down(&pool);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_replaces_a_cache", "--exact", "--nocapture"])
        .env(REPLACED, pool.as_ref())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !asked.exists() {
        assert!(begun.elapsed() < BOUND, "nothing is replaced");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = fs::File::open(pool.as_ref().join("state/obuild-zfs/caches")).unwrap();
    let free = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    drop(lock);
    let place = pool.as_ref().to_owned();
    let next = std::thread::spawn(move || open(&place).reconcile(&[]).map(drop));
    fs::write(&go, "").unwrap();
    next.join().unwrap().unwrap();
    assert!(free.is_err(), "the lock has gone before the command");
    // Whoever has waited has swept as well.
    let store = open(pool.as_ref());
    let begun = Instant::now();
    while !leftovers(pool.as_ref()).is_empty() {
        assert!(begun.elapsed() < BOUND, "left {:?}", leftovers(pool.as_ref()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let lease = store.cache(BStr::new("c")).unwrap();
    assert_eq!(file(lease.dir()).as_deref(), Some("1"));
    drop(lease);
}

fn file(path: &Path) -> Option<String> {
    fs::read_to_string(path.join("file")).ok()
}

/// What the next process finds, and makes of it.
fn check(pool: &TestPool, when: &str) {
    let store = open(pool.as_ref());
    store.reconcile(&[]).unwrap();
    for (name, expected) in [("base", true), ("next", false)] {
        let result = store.result(&id(name)).unwrap();
        assert!(result.is_some() || !expected, "{when}: `{name}` has gone");
        let held = result.map(|result| file(&result.rootfs()).unwrap_or_default());
        assert!(held.is_none_or(|held| held == name), "{when}: `{name}` is not what it was");
    }
    let kept = store.kept(&id("bad")).unwrap();
    assert!(kept.is_none_or(|kept| file(&kept.rootfs()).as_deref() == Some("bad")), "{when}");
    let lease = store.cache(BStr::new("c")).unwrap();
    let held = file(lease.dir());
    assert!(matches!(held.as_deref(), Some("0" | "1")), "{when}: the cache holds {held:?}");
    drop(lease);
    let held = fetch_image(&store);
    assert!(["0", "1", "2"].contains(&held.as_str()), "{when}: the image holds {held:?}");
    sequence(&store);
    let begun = Instant::now();
    while !leftovers(pool.as_ref()).is_empty() {
        assert!(begun.elapsed() < BOUND, "{when}: left {:?}", leftovers(pool.as_ref()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(store);
    let store = open(pool.as_ref());
    assert_eq!(store.check(false, false).unwrap(), [], "{when}");
    assert_eq!(store.results().unwrap(), [id("base")], "{when}");
    assert_eq!(pool.names("/cache"), ["c-c", "c-c@snap"], "{when}");
    // What was busy for a moment is unmounted at the end.
    drop(store);
    let mounted = pool.zfs("list -Hp -r -t filesystem -o name,mounted POOL");
    let deep =
        |line: &&str| line.ends_with("\tyes") && line.matches('/').count() > 1 + pool.depth();
    assert_eq!(mounted.lines().find(deep), None, "{when}");
}

/// Every `of`th command, so that parts may run at once. With `OBUILD_TEST_EVERY=N` it is every Nth of them alone.
fn kills(pool: &TestPool, part: u32, of: u32) {
    let every: u32 = std::env::var("OBUILD_TEST_EVERY").map_or(1, |text| text.parse().unwrap());
    prepare(&open(pool.as_ref()));
    let mut command = part + 1;
    while killed_after(pool, command) {
        assert!(command < MOST, "the sequence does not end");
        check(pool, &format!("killed after command {command}"));
        command += of * every;
    }
    assert!(command > 10, "the sequence takes more than {command} commands");
}

macro_rules! in_parts {
    ($($name:ident $part:literal)*) => {
        mod on_zfs { $(#[test] fn $name() { if let Some(pool) = super::real() { super::kills(&pool, $part, 4); } })* }
        mod on_stand_in { $(#[test] fn $name() { if let Some(pool) = super::stand_in() { super::kills(&pool, $part, 4); } })* }
    };
}

in_parts!(kills_1 0 kills_2 1 kills_3 2 kills_4 3);
