//! One transcript of commands, on real ZFS and on the stand-in: what succeeds, what is refused, and what there is after it. The
//! stand-in proves nothing about ZFS that this does not prove about the stand-in.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Child, Command};

use common::{TestPool, real, stand_in};

/// Each line is a command, and whether ZFS does it.
const CLONES: &str = "
    ok  create -o canmount=noauto POOL/a
    no  create POOL/a
    no  create POOL/missing/a
    no  create POOL/a%2fb
    ok  create POOL/c-a:2f.b
    ok  create -o canmount=noauto POOL/a/home
    ok  snapshot POOL/a@snap POOL/a/home@snap
    no  snapshot POOL/a@snap
    no  snapshot POOL/a@other POOL/a/home@snap
    no  clone POOL/a@missing POOL/b
    ok  clone -o canmount=noauto POOL/a@snap POOL/b
    no  clone -o canmount=noauto POOL/a@snap POOL/b
    ok  clone -o canmount=noauto POOL/a/home@snap POOL/b/home
    no  destroy POOL/a
    no  destroy -r POOL/a
    no  destroy POOL/a@snap
    no  destroy POOL/b
    ok  rename POOL/a POOL/c
    no  rename POOL/a POOL/d
    no  rename POOL/c POOL/b
    ok  snapshot -r POOL/b@later
    ok  destroy -r POOL/b
    ok  destroy -r POOL/c
    ok  destroy POOL/c-a:2f.b
    no  destroy POOL/c
";

const PROMOTION: &str = "
    ok  create -o canmount=noauto POOL/main
    ok  snapshot POOL/main@snap
    ok  clone -o canmount=noauto POOL/main@snap POOL/next
    ok  clone -o canmount=noauto POOL/main@snap POOL/other
    ok  snapshot POOL/next@snap
    no  promote POOL/main
    no  promote POOL/next
    ok  rename POOL/main@snap POOL/main@old
    ok  promote POOL/next
    no  destroy POOL/next@old
    ok  destroy -d POOL/next@old
    ok  destroy POOL/main
";

const AFTER_PROMOTION: &str = "
    POOL/next@old clones POOL/other
    POOL/next@old defer_destroy on
    POOL/other origin POOL/next@old
    POOL/next origin -
";

fn follow(pool: &TestPool, transcript: &str) {
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (expected, command) = line.split_once("  ").unwrap();
        let output = pool.try_zfs(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), expected == "ok", "zfs {command}: {said}");
        assert_eq!(said.is_empty(), output.status.success(), "zfs {command}: {said}");
    }
}

fn has(pool: &TestPool, facts: &str) {
    for fact in facts.lines().map(str::trim).filter(|fact| !fact.is_empty()) {
        let fact = fact.replace("POOL", &pool.place.pool);
        let mut words = fact.split_whitespace();
        let (name, property) = (words.next().unwrap(), words.next().unwrap());
        let found = pool.zfs(&format!("list -Hp -t filesystem,snapshot -o {property} {name}"));
        assert_eq!(Some(found.trim()), words.next(), "{fact}");
    }
}

fn clones(pool: &TestPool) {
    follow(pool, CLONES);
    assert_eq!(pool.zfs("list -Hp -r -t filesystem,snapshot -o name POOL").lines().count(), 1);
}

fn promotion(pool: &TestPool) {
    follow(pool, PROMOTION);
    has(pool, AFTER_PROMOTION);
    follow(pool, "ok  destroy POOL/other");
    let left = pool.zfs("list -Hp -r -t filesystem,snapshot -o name POOL");
    let left: Vec<_> = left.lines().map(|name| name.replace(&pool.place.pool, "POOL")).collect();
    assert_eq!(left, ["POOL", "POOL/next", "POOL/next@snap"], "the deferred snapshot has gone");
}

/// A process that uses `dir`.
struct User(Child);

impl User {
    fn of(dir: &std::path::Path) -> Self {
        Self(Command::new("sleep").arg("600").current_dir(dir).spawn().unwrap())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn mounts(pool: &TestPool) {
    let root = &pool.place.root;
    follow(pool, "ok  create -o canmount=noauto POOL/a");
    assert_eq!(pool.zfs("list -Hp -o mounted POOL/a"), "no\n");
    follow(pool, "ok  mount POOL/a\n no  mount POOL/a");
    fs::write(root.join("a/file"), "before").unwrap();
    follow(pool, "ok  snapshot POOL/a@snap");
    fs::write(root.join("a/file"), "after").unwrap();
    {
        let _user = User::of(&root.join("a"));
        follow(
            pool,
            "no  unmount POOL/a
             no  rename POOL/a POOL/b",
        );
    }
    let elsewhere = root.join("elsewhere/deep");
    let set = format!("set mountpoint={} POOL/a", elsewhere.display());
    assert!(pool.try_zfs(&set).status.success());
    assert_eq!(fs::read_to_string(elsewhere.join("file")).unwrap(), "after");
    assert!(!root.join("a/file").exists());
    follow(pool, "ok  unmount POOL/a\n no  unmount POOL/a\n ok  clone POOL/a@snap POOL/b");
    assert_eq!(fs::read_to_string(root.join("b/file")).unwrap(), "before");
    assert_eq!(
        pool.zfs("list -Hp -o mounted,origin POOL/b").trim(),
        format!("yes\t{}/a@snap", pool.place.pool)
    );
    assert!(!elsewhere.join("file").exists());
    // One that is not mounted by itself is mounted where it was made for, and moved from there.
    let (made, moved) = (root.join("made"), root.join("moved"));
    let clone =
        format!("clone -o canmount=noauto -o mountpoint={} POOL/a@snap POOL/c", made.display());
    assert!(pool.try_zfs(&clone).status.success());
    follow(pool, "ok  mount POOL/c");
    assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "before");
    assert!(pool.try_zfs(&format!("set mountpoint={} POOL/c", moved.display())).status.success());
    assert_eq!(fs::read_to_string(moved.join("file")).unwrap(), "before");
    {
        let _user = User::of(&moved);
        let set = format!("set mountpoint={} POOL/c", made.display());
        assert!(!pool.try_zfs(&set).status.success(), "it is in use");
    }
    follow(pool, "ok  unmount POOL/c\n ok  mount -o ro POOL/c\n no  mount -o ro POOL/c");
    // The stand-in only moves what it mounts.
    assert!(!pool.is_real() || fs::write(moved.join("file"), "").is_err());
    follow(pool, "ok  unmount POOL/c\n ok  destroy POOL/c");
    follow(pool, "ok  destroy POOL/b\n ok  mount POOL/a");
    {
        let _user = User::of(&elsewhere);
        follow(pool, "no  destroy -r POOL/a");
    }
    let left = pool.zfs("list -Hp -r -t filesystem,snapshot -o name POOL");
    assert_eq!(
        left.lines().count(),
        2,
        "its snapshots have gone before it turned out to be busy: {left}"
    );
    follow(pool, "ok  destroy -r POOL/a");
}

/// As OBuilder makes the home and the prefix of a step on a Mac, and moves them.
fn mount_points_that_are_none(pool: &TestPool) {
    let (root, facts) = (&pool.place.root, |expected: &str| {
        let listed = pool.zfs("list -Hp -o mounted,mountpoint,canmount POOL/b");
        let root = pool.place.root.to_str().unwrap();
        assert_eq!(listed.trim().replace(root, "ROOT").replace('\t', " "), expected);
    });
    let set = |what: &str| {
        let command = format!("ok  set {} POOL/b", what.replace("ROOT", root.to_str().unwrap()));
        follow(pool, &command);
    };
    follow(pool, "ok  create -o canmount=noauto POOL/a\n ok  snapshot POOL/a@snap");
    follow(pool, "ok  clone -o mountpoint=none POOL/a@snap POOL/b\n no  mount POOL/b");
    facts("no none on");
    set("mountpoint=ROOT/shown");
    facts("yes ROOT/shown on");
    follow(pool, "no  mount -o ro POOL/b");
    set("canmount=noauto");
    facts("yes ROOT/shown noauto");
    set("mountpoint=none");
    facts("no none noauto");
    set("mountpoint=ROOT/shown");
    facts("no ROOT/shown noauto");
    follow(pool, "ok  mount -o ro POOL/b");
    set("mountpoint=none");
    facts("no none noauto");
    follow(pool, "ok  create POOL/b/below\n no  mount POOL/b/below\n ok  destroy POOL/b/below");
    {
        set("mountpoint=ROOT/shown");
        follow(pool, "ok  mount POOL/b");
        let _user = User::of(&root.join("shown"));
        follow(pool, "no  set mountpoint=none POOL/b");
        facts("yes ROOT/shown noauto");
    }
    follow(pool, "ok  destroy POOL/b\n ok  destroy -r POOL/a");
}

fn listing(pool: &TestPool) {
    follow(pool, "ok  create -o canmount=noauto POOL/a\n ok  snapshot POOL/a@snap");
    let listed = |line: &str| {
        let output = pool.try_zfs(line);
        let text = String::from_utf8(output.stdout).unwrap().replace(&pool.place.pool, "POOL");
        (output.status.code().unwrap(), text)
    };
    for (line, status, expected) in [
        ("list -Hp -t filesystem,snapshot -o name POOL/a@snap POOL/b@snap", 1, "POOL/a@snap\n"),
        ("list -Hp -o name,origin POOL/a POOL/b", 1, "POOL/a\t-\n"),
        ("list -Hp -o bogus POOL/a", 2, ""),
        ("list -Hp -r -d 1 -t filesystem -o name POOL", 0, "POOL\nPOOL/a\n"),
        ("list -Hp -r -t snapshot -o name,clones POOL", 0, "POOL/a@snap\t-\n"),
        ("list -Hp -r -t filesystem,snapshot -o name POOL", 0, "POOL\nPOOL/a\nPOOL/a@snap\n"),
    ] {
        assert_eq!(listed(line), (status, expected.to_owned()), "{line}");
    }
    let guid = || pool.zfs("list -Hp -t snapshot -o guid POOL/a@snap");
    let first = guid();
    follow(pool, "ok  destroy POOL/a@snap\n ok  snapshot POOL/a@snap");
    assert_ne!(first, guid());
}

/// Everything but mounting, which Linux lets root alone do.
const OF_A_USER: &str = "
    ok  snapshot POOL/a@snap
    ok  clone -o canmount=noauto POOL/a@snap POOL/b
    ok  set mountpoint=/nowhere POOL/b
    ok  snapshot POOL/b@snap
    ok  rename POOL/b POOL/c
    ok  rename POOL/c@snap POOL/c@old
    ok  promote POOL/c
    ok  destroy -r POOL/a
    ok  destroy -d POOL/c@old
    ok  destroy -r POOL/c
";

/// The permissions that errors and the documentation name are enough, and all of them together are needed.
#[test]
fn a_user_may_do_what_root_allows() {
    let Some(pool) = real() else { return };
    let user = |line: &str| {
        let line = line.replace("POOL", &pool.place.pool);
        let who = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "zfs"];
        Command::new("setpriv").args(who).args(line.split_whitespace()).output().unwrap()
    };
    pool.zfs("create -o canmount=noauto POOL/a");
    assert!(!user("snapshot POOL/a@snap").status.success());
    pool.zfs(&format!("allow -u 65534 {} POOL", store_zfs::PERMISSIONS));
    for line in OF_A_USER.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (_, command) = line.split_once("  ").unwrap();
        let output = user(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "zfs {command}: {said}");
    }
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_zfs { $(#[test] fn $name() { if let Some(pool) = super::real() { super::$name(&pool); } })* }
        mod on_stand_in { $(#[test] fn $name() { if let Some(pool) = super::stand_in() { super::$name(&pool); } })* }
    };
}

on_both!(clones promotion mounts mount_points_that_are_none listing);
