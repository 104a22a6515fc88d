//! The library, as a sandbox uses it. What looks at the mounts are other processes: one that serves must not wait for itself.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use common::{ANN, BEN, EVE, Stage, can_mount, mounted, wait_for};
use usrlocal_fs::{Config, Error, MountPoint, Mounts, Otherwise, status};

fn shell(user: u32, dir: &Path, script: &str) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["10", "/bin/sh", "-euc", script])
        .env("M", dir)
        .current_dir("/")
        .uid(user)
        .gid(user)
        .output()
        .unwrap()
}

fn says(user: u32, dir: &Path, script: &str) -> String {
    let said = shell(user, dir, script);
    assert!(said.status.success(), "{script}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

#[test]
fn trees_are_switched_and_looked_at_afresh() {
    if !can_mount() {
        return;
    }
    let stage = Stage::prepare();
    fs::create_dir(stage.at("home")).unwrap();
    let points = vec![
        MountPoint::new(stage.at("mnt")),
        MountPoint::new(stage.at("home")).showing(".").otherwise(Otherwise::Nothing),
    ];
    let mounts = Mounts::serve(&Config::new(stage.at("scoreboard"), points)).unwrap();
    assert_eq!(mounts.mount_points().count(), 2);
    let (mnt, home) = (stage.at("mnt"), stage.at("home"));
    assert_eq!(says(ANN, &mnt, "mkdir -p $M/a/b; echo one > $M/a/b/c; cat $M/a/b/c"), "one");
    assert_eq!(says(ANN, &home, "cat $M/local/a/b/c"), "one");
    assert!(!shell(EVE, &home, "ls $M").status.success());

    // Changed behind the mount, and said so.
    fs::write(stage.tree(ANN, "a/b/c"), "changed").unwrap();
    fs::write(stage.tree(ANN, "a/b/new"), "new").unwrap();
    mounts.invalidate(ANN);
    assert_eq!(says(ANN, &mnt, "cat $M/a/b/c; echo; cat $M/a/b/new"), "changed\nnew");

    // A tree that changes owner goes to another user; the first has none.
    for path in ["", "a", "a/b", "a/b/c"] {
        chown(stage.tree(ANN, path), Some(BEN), Some(BEN)).unwrap();
    }
    let tree = stage.at(&format!("tree-{ANN}"));
    mounts.switch(BEN, Some(&tree)).unwrap();
    mounts.switch(ANN, None).unwrap();
    assert_eq!(says(BEN, &mnt, "echo two > $M/a/b/c; cat $M/a/b/c"), "two");
    assert_eq!(says(ANN, &mnt, "ls $M"), "underneath");
    assert!(mounts.is_serving());
    let (at, told) = mounts.status().into_iter().next().unwrap();
    assert_eq!(at, mnt.canonicalize().unwrap());
    assert_eq!(told.views.iter().filter_map(|view| view.uid).collect::<Vec<_>>(), [BEN]);

    mounts.unmount().unwrap();
    assert!(!mounted(&mnt) && !mounted(&home));
    assert_eq!(fs::read_to_string(stage.tree(ANN, "a/b/c")).unwrap(), "two\n");
}

#[test]
fn two_users_at_one_place_know_where_they_are() {
    if !can_mount() {
        return;
    }
    let stage = Stage::prepare();
    let point = MountPoint::new(stage.at("mnt")).showing(".");
    let mounts = Mounts::serve(&Config::new(stage.at("scoreboard"), vec![point])).unwrap();
    let mnt = stage.at("mnt").canonicalize().unwrap();
    // Not directly in the mount point, whose names the kernel takes from one user when another asks.
    let script = "mkdir -p $M/local/src; cd $M/local/src; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        ls $M/local/src >/dev/null; test \"$(env -u PWD /bin/pwd -P)\" = $M/local/src; echo $n > f; test $(cat f) = $n; done";
    std::thread::scope(|scope| {
        for user in [ANN, BEN] {
            let mnt = &mnt;
            scope.spawn(move || says(user, mnt, script));
        }
    });
    drop(mounts);
    assert!(!mounted(&mnt));
}

#[test]
fn a_dropped_server_unmounts_though_the_mount_is_in_use() {
    if !can_mount() {
        return;
    }
    let stage = Stage::prepare();
    let mounts =
        Mounts::serve(&Config::new(stage.at("scoreboard"), vec![MountPoint::new(stage.at("mnt"))]))
            .unwrap();
    let script = format!("cd {}; echo > here; exec sleep 30", stage.at("mnt").display());
    let mut child =
        Command::new("/bin/sh").args(["-c", &script]).uid(ANN).gid(ANN).spawn().unwrap();
    wait_for("the user of the mount", || stage.tree(ANN, "here").exists());
    drop(mounts);
    assert!(!mounted(&stage.at("mnt")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_cannot_be_served_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let serve = |config: Config| Mounts::serve(&config).map(drop).unwrap_err();
    assert!(matches!(serve(Config::new(dir.path(), vec![])), Error::NothingToServe));
    assert!(matches!(
        serve(Config::new(dir.path(), vec![MountPoint::new("here")])),
        Error::Relative(_)
    ));
    let outside = MountPoint::new(dir.path()).showing("../x");
    assert!(matches!(serve(Config::new(dir.path(), vec![outside])), Error::Outside(_)));
    let missing =
        serve(Config::new(at("scoreboard"), vec![MountPoint::new(dir.path())])).to_string();
    assert!(missing.contains("scoreboard"), "{missing}");
    let missing = serve(Config::new(dir.path(), vec![MountPoint::new(at("mnt"))])).to_string();
    assert!(missing.contains("mnt"), "{missing}");
    assert!(matches!(status(dir.path()), Err(Error::NotServed(_) | Error::Io { .. })));
}
