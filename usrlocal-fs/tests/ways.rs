//! Where the link of a user may lead.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use common::{ANN, BEN, Stage, as_user, can_mount, errno};

/// A stage on which the tree of ANN lies in a home of hers, and what root keeps for itself.
fn at_home() -> (Stage, PathBuf, PathBuf) {
    let stage = Stage::prepare();
    let home = stage.at("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(ANN), Some(ANN)).unwrap();
    fs::rename(stage.at(&format!("tree-{ANN}")), home.join("tree")).unwrap();
    // By a symlink of root's on the way, too, and one amid whose target the home lies.
    symlink("home", stage.at("way")).unwrap();
    symlink(stage.at("way/tree"), stage.at("here")).unwrap();
    fs::remove_file(stage.at(&format!("scoreboard/{ANN}"))).unwrap();
    let closed = stage.at("closed");
    fs::create_dir_all(closed.join("local")).unwrap();
    fs::write(closed.join("local/key"), "secret").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    (stage, home, closed)
}

#[test]
fn a_tree_in_a_home_is_shown_and_what_takes_its_place_is_seen_with_the_rights_of_its_user() {
    if !can_mount() {
        return;
    }
    for link in ["home/tree", "way/tree", "here"] {
        let (mut stage, home, closed) = at_home();
        symlink(stage.at(link), stage.at(&format!("scoreboard/{ANN}"))).unwrap();
        stage.serve(&["--workers", "2"]);
        let (tree, key) = (home.join("tree"), stage.mnt("key"));
        let read = || as_user(ANN, || fs::read_to_string(&key));
        as_user(ANN, || fs::write(&key, "mine")).unwrap();
        as_user(ANN, || fs::rename(&tree, home.join("old"))).unwrap();
        assert_eq!(errno(read()), libc::ENOENT, "{link}");
        as_user(ANN, || symlink(&closed, &tree)).unwrap();
        assert!([libc::ELOOP, libc::ENOTDIR].contains(&errno(read())), "{link}");
        fs::remove_file(&tree).unwrap();
        // What she could have found in her home, and taken for a tree.
        fs::rename(&closed, &tree).unwrap();
        assert_eq!(errno(read()), libc::EACCES, "{link}");
        fs::rename(&tree, &closed).unwrap();
        as_user(ANN, || fs::create_dir_all(tree.join("local"))).unwrap();
        as_user(ANN, || fs::write(&key, "new")).unwrap();
        assert_eq!(fs::read_to_string(tree.join("local/key")).unwrap(), "new");
        as_user(ANN, || fs::rename(&tree, home.join("new"))).unwrap();
        as_user(ANN, || fs::rename(home.join("old"), &tree)).unwrap();
        assert_eq!(read().unwrap(), "mine", "{link}");
    }
}

#[test]
fn a_tree_that_turns_into_a_link_into_the_mount_is_not_waited_for() {
    if !can_mount() {
        return;
    }
    let (mut stage, home, _) = at_home();
    symlink(home.join("tree"), stage.at(&format!("scoreboard/{ANN}"))).unwrap();
    stage.serve(&["--workers", "2"]);
    for user in [ANN, BEN] {
        as_user(user, || fs::write(stage.mnt("name"), user.to_string())).unwrap();
    }
    as_user(ANN, || fs::rename(home.join("tree"), home.join("old"))).unwrap();
    as_user(ANN, || symlink(stage.mnt(""), home.join("tree"))).unwrap();
    // In threads of their own, which a server that waits for itself would hold until the stage is taken down.
    let path = stage.mnt("name");
    let look = |user, path: PathBuf| {
        std::thread::spawn(move || {
            (0..200).map(|_| as_user(user, || fs::read_to_string(&path)).ok()).next_back()
        })
    };
    let mut looks: Vec<_> = (0..8).map(|_| look(ANN, path.clone())).collect();
    looks.push(look(BEN, path));
    common::wait_for("the server", || looks.iter().all(|look| look.is_finished()));
    let seen: Vec<_> = looks.into_iter().map(|look| look.join().unwrap().flatten()).collect();
    assert_eq!((&seen[0], &seen[8]), (&None, &Some(BEN.to_string())));
}
