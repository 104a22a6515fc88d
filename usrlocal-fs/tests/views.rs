//! Who sees what.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use common::{ANN, BEN, EVE, Stage, as_user, can_mount, errno, in_groups};

#[test]
fn each_user_sees_its_own_tree_and_others_what_was_there_before() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    for user in [ANN, BEN] {
        as_user(user, || fs::write(stage.mnt("name"), user.to_string())).unwrap();
        as_user(user, || fs::create_dir_all(stage.mnt("a/b"))).unwrap();
        as_user(user, || fs::write(stage.mnt("a/b/c"), user.to_string())).unwrap();
    }
    for user in [ANN, BEN, ANN] {
        for name in ["name", "a/b/c"] {
            assert_eq!(
                as_user(user, || fs::read_to_string(stage.mnt(name))).unwrap(),
                user.to_string()
            );
            assert_eq!(fs::read_to_string(stage.tree(user, name)).unwrap(), user.to_string());
            let meta = as_user(user, || fs::metadata(stage.mnt(name))).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (user, user));
        }
        let top = as_user(user, || fs::metadata(stage.mnt(""))).unwrap();
        assert_eq!((top.uid(), top.mode() & 0o7777), (user, 0o755));
    }
    for user in [0, EVE] {
        let names: Vec<_> = as_user(user, || names(&stage.mnt("")));
        assert_eq!(names, ["underneath"]);
        assert_eq!(
            as_user(user, || fs::read_to_string(stage.mnt("underneath"))).unwrap(),
            "was here before"
        );
        assert_eq!(errno(as_user(user, || fs::metadata(stage.mnt("a")))), libc::ENOENT);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_user_without_an_entry_sees_the_fallback_or_nothing() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    fs::create_dir(stage.at("fallback")).unwrap();
    fs::write(stage.at("fallback/f"), "fallback").unwrap();
    let fallback = stage.at("fallback");
    stage.serve(&["--fallback", fallback.to_str().unwrap()]);
    assert_eq!(as_user(EVE, || fs::read_to_string(stage.mnt("f"))).unwrap(), "fallback");
    let stage = Stage::with(&["--nothing"]);
    assert_eq!(errno(as_user(EVE, || fs::read_dir(stage.mnt("")))), libc::ENOENT);
    assert_eq!(errno(as_user(EVE, || fs::read(stage.mnt("underneath")))), libc::ENOENT);
    as_user(ANN, || fs::write(stage.mnt("mine"), "")).unwrap();
}

#[test]
fn a_switched_link_counts_from_the_next_access_and_open_files_stay_open() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    stage.make_tree("next", ANN);
    let write = |text: &str| as_user(ANN, || fs::write(stage.mnt("file"), text)).unwrap();
    let read = || as_user(ANN, || fs::read_to_string(stage.mnt("file")));
    as_user(ANN, || fs::create_dir(stage.mnt("deep"))).unwrap();
    as_user(ANN, || fs::write(stage.mnt("deep/file"), "one")).unwrap();
    write("one");
    let mut open = as_user(ANN, || fs::File::open(stage.mnt("file"))).unwrap();
    stage.link(ANN, "next");
    assert_eq!(errno(read()), libc::ENOENT);
    assert_eq!(errno(as_user(ANN, || fs::read(stage.mnt("deep/file")))), libc::ENOENT);
    write("two");
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), read().unwrap().as_str()), ("one", "two"));

    // A link made anew, to the same tree, makes what changed behind the mount visible.
    stage.link(ANN, &ANN.to_string());
    assert_eq!(as_user(ANN, || fs::metadata(stage.mnt("deep/file"))).unwrap().len(), 3);
    fs::write(stage.tree(ANN, "deep/file"), "changed behind").unwrap();
    fs::write(stage.tree(ANN, "deep/new"), "new").unwrap();
    chown(stage.tree(ANN, "deep"), Some(0), None).unwrap();
    stage.link(ANN, &ANN.to_string());
    assert_eq!(
        as_user(ANN, || fs::read_to_string(stage.mnt("deep/file"))).unwrap(),
        "changed behind"
    );
    assert_eq!(as_user(ANN, || fs::read_to_string(stage.mnt("deep/new"))).unwrap(), "new");
    assert_eq!(errno(as_user(ANN, || fs::write(stage.mnt("deep/x"), ""))), libc::EACCES);

    // A tree that is replaced by a rename under a link that stands.
    fs::rename(stage.at("tree-next"), stage.at("tree-gone")).unwrap();
    stage.link(ANN, "next");
    assert_eq!(errno(read()), libc::ENOENT);
    stage.make_tree("next", ANN);
    write("three");
    fs::rename(stage.at("tree-next"), stage.at("tree-away")).unwrap();
    fs::rename(stage.at("tree-gone"), stage.at("tree-next")).unwrap();
    assert_eq!(read().unwrap(), "two");

    fs::remove_file(stage.at(&format!("scoreboard/{ANN}"))).unwrap();
    assert_eq!(
        as_user(ANN, || fs::read_to_string(stage.mnt("underneath"))).unwrap(),
        "was here before"
    );
}

#[test]
fn several_mount_points_show_their_own_part_of_a_tree() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    let brew = stage.at("tree-1200001/brew");
    fs::create_dir(&brew).unwrap();
    chown(&brew, Some(ANN), None).unwrap();
    fs::create_dir(stage.at("opt")).unwrap();
    let opt = stage.at("opt");
    stage.serve(&["--subdirectory", "brew", "--subdirectory", "local", opt.to_str().unwrap()]);
    as_user(ANN, || fs::write(opt.join("in-brew"), "")).unwrap();
    as_user(ANN, || fs::write(stage.mnt("in-local"), "")).unwrap();
    assert!(brew.join("in-brew").exists() && stage.tree(ANN, "in-local").exists());
    assert_eq!(as_user(EVE, || names(&opt)), Vec::<String>::new());
    let unmounted = stage.signal(rustix::process::Signal::TERM);
    assert!(unmounted.success() && !common::mounted(&opt) && !common::mounted(&stage.at("mnt")));
}

#[test]
fn no_symlink_leads_the_server_out_of_a_tree() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    let secret = stage.at("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    // The caller follows a link with its own rights; the server never follows one.
    as_user(ANN, || symlink(&secret, stage.mnt("out"))).unwrap();
    assert_eq!(errno(as_user(ANN, || fs::read(stage.mnt("out/key")))), libc::EACCES);
    // The directory that is shown, replaced by a link.
    fs::remove_dir_all(stage.tree(BEN, "")).unwrap();
    symlink(&secret, stage.at(&format!("tree-{BEN}/local"))).unwrap();
    for path in ["", "key"] {
        assert_ne!(errno(as_user(BEN, || fs::metadata(stage.mnt(path)))), 0);
    }
    // A name that turns into a link and back while the server works on it.
    as_user(ANN, || fs::create_dir(stage.mnt("turn"))).unwrap();
    let real = stage.tree(ANN, "turn");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::remove_dir_all(&real);
                let _ = symlink(&secret, &real);
                let _ = fs::remove_file(&real);
                let _ = fs::create_dir(&real);
                let _ = chown(&real, Some(ANN), None);
            }
        });
        for round in 0..300 {
            as_user(ANN, || fs::write(stage.mnt("turn").join(format!("f{round}")), "x")).ok();
            assert_ne!(errno(as_user(ANN, || fs::read(stage.mnt("turn/key")))), 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(names(&secret), ["key"]);
}

#[test]
fn a_tree_below_its_own_mount_point_is_refused_not_waited_for() {
    if !can_mount() {
        return;
    }
    let stage = Stage::prepare();
    fs::remove_file(stage.at(&format!("scoreboard/{EVE}"))).ok();
    symlink(stage.mnt("sub"), stage.at(&format!("scoreboard/{EVE}"))).unwrap();
    let mut stage = stage;
    stage.serve(&[]);
    assert_eq!(errno(as_user(EVE, || fs::metadata(stage.mnt("")))), libc::ELOOP);
}

#[test]
fn groups_and_special_bits_count() {
    if !can_mount() {
        return;
    }
    const TEAM: u32 = 1_200_100;
    let stage = Stage::new();
    let team = stage.tree(ANN, "team");
    fs::create_dir(&team).unwrap();
    chown(&team, Some(0), Some(TEAM)).unwrap();
    fs::set_permissions(&team, fs::Permissions::from_mode(0o2770)).unwrap();
    let path = stage.mnt("team/file");
    assert_eq!(errno(as_user(ANN, || fs::write(&path, ""))), libc::EACCES);
    in_groups(ANN, &[TEAM], || fs::write(&path, "")).unwrap();
    let meta = fs::metadata(team.join("file")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (ANN, TEAM));
    in_groups(ANN, &[TEAM], || fs::create_dir(stage.mnt("team/dir"))).unwrap();
    assert_eq!(fs::metadata(team.join("dir")).unwrap().mode() & 0o7000, 0o2000);
    // Giving a file to a group takes membership.
    as_user(ANN, || fs::write(stage.mnt("own"), "")).unwrap();
    assert_eq!(errno(as_user(ANN, || chown(stage.mnt("own"), None, Some(TEAM)))), libc::EPERM);
    in_groups(ANN, &[TEAM], || chown(stage.mnt("own"), None, Some(TEAM))).unwrap();
    // In a sticky directory another's file cannot be removed, not even right at the top.
    for dir in ["", "sticky"] {
        let real = stage.tree(ANN, dir);
        fs::create_dir_all(&real).unwrap();
        chown(&real, Some(0), Some(0)).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(real.join("roots"), "").unwrap();
        let path = stage.mnt(dir).join("roots");
        assert_eq!(errno(as_user(ANN, || fs::remove_file(&path))), libc::EPERM, "{dir}");
        as_user(ANN, || fs::write(stage.mnt(dir).join("mine"), "")).unwrap();
        as_user(ANN, || fs::remove_file(stage.mnt(dir).join("mine"))).unwrap();
    }
}

type Change = fn(&Path);

#[test]
fn writing_takes_set_user_id_away_as_on_a_plain_file() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    let changes: [(&str, Change); 2] = [
        ("write", |path| {
            let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all(b"x").unwrap();
        }),
        ("truncate", |path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1).unwrap()
        }),
    ];
    for (mode, by) in
        [(0o4777, BEN), (0o2777, BEN), (0o2767, BEN), (0o6777, ANN), (0o2767, ANN), (0o6777, 0)]
    {
        for (name, change) in changes {
            // Root has no tree here: it sees what lies below the mount.
            let plain = stage.at("plain");
            let make = |path: &Path| {
                fs::write(path, "text").unwrap();
                chown(path, Some(ANN), Some(ANN)).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            };
            make(&plain);
            make(&if by == 0 { stage.mnt("file") } else { stage.tree(by, "file") });
            let seen = stage.mnt("file");
            let bits = |path: &Path| {
                as_user(by, || change(path));
                as_user(by, || fs::metadata(path)).unwrap().mode() & 0o7777
            };
            assert_eq!(bits(&seen), bits(&plain), "{name} of {mode:o} by {by}");
            as_user(by, || fs::remove_file(&seen)).unwrap();
            fs::remove_file(&plain).unwrap();
        }
    }
}

#[test]
fn a_top_that_looks_the_same_to_all_is_still_each_ones_own() {
    if !can_mount() {
        return;
    }
    let stage = Stage::with(&["--same-top"]);
    for user in [ANN, BEN, ANN, 0, EVE] {
        let top = as_user(user, || fs::metadata(stage.mnt(""))).unwrap();
        assert_eq!((top.uid(), top.mode() & 0o7777), (0, 0o707));
    }
    for user in [ANN, BEN] {
        as_user(user, || fs::write(stage.mnt("name"), user.to_string())).unwrap();
    }
    for user in [ANN, BEN, ANN] {
        let text = as_user(user, || fs::read_to_string(stage.mnt("name"))).unwrap();
        assert_eq!(text, user.to_string());
        assert_eq!(as_user(user, || names(&stage.mnt(""))), ["name"]);
    }
    // The tree's own directory decides what its user may do, right away.
    assert_eq!(errno(as_user(EVE, || fs::write(stage.mnt("new"), ""))), libc::EACCES);
    let local = stage.tree(ANN, "");
    chown(&local, Some(0), Some(0)).unwrap();
    assert_eq!(errno(as_user(ANN, || fs::write(stage.mnt("new"), ""))), libc::EACCES);
    assert_eq!(errno(as_user(ANN, || fs::remove_file(stage.mnt("name")))), libc::EACCES);
    assert_eq!(as_user(ANN, || fs::read_to_string(stage.mnt("name"))).unwrap(), ANN.to_string());
    fs::set_permissions(&local, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(errno(as_user(ANN, || fs::read(stage.mnt("name")))), libc::EACCES);
    assert_eq!(errno(as_user(ANN, || fs::read_dir(stage.mnt("")))), libc::EACCES);
    as_user(BEN, || fs::remove_file(stage.mnt("name"))).unwrap();
    assert_eq!(errno(as_user(BEN, || chown(stage.mnt(""), Some(BEN), None))), libc::EPERM);
}

#[test]
fn a_top_that_turns_into_a_link_into_the_mount_is_not_waited_for() {
    if !can_mount() {
        return;
    }
    let stage = Stage::with(&["--workers", "2"]);
    for user in [ANN, BEN] {
        as_user(user, || fs::write(stage.mnt("name"), user.to_string())).unwrap();
    }
    let local = stage.at(&format!("tree-{ANN}/local"));
    fs::rename(&local, stage.at(&format!("tree-{ANN}/was"))).unwrap();
    symlink(stage.mnt("underneath"), &local).unwrap();
    // In threads of their own, which a server that waits for itself would hold until the stage is taken down.
    let (path, text) = (stage.mnt("name"), BEN.to_string());
    let look = |user, path: std::path::PathBuf| {
        std::thread::spawn(move || {
            (0..200).map(|_| as_user(user, || fs::read_to_string(&path)).ok()).next_back()
        })
    };
    let mut looks: Vec<_> = (0..8).map(|_| look(ANN, path.clone())).collect();
    looks.push(look(BEN, path));
    common::wait_for("the server", || looks.iter().all(|look| look.is_finished()));
    let seen: Vec<_> = looks.into_iter().map(|look| look.join().unwrap().flatten()).collect();
    assert_eq!((&seen[0], &seen[8]), (&None, &Some(text)));
}

#[test]
fn nobody_is_turned_away_from_its_top_because_another_looks_at_the_same_moment() {
    if !can_mount() {
        return;
    }
    for mode in [0o755, 0o700] {
        let stage = Stage::new();
        fs::remove_file(stage.at(&format!("scoreboard/{BEN}"))).unwrap();
        fs::set_permissions(stage.tree(ANN, ""), fs::Permissions::from_mode(mode)).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
        let (top, below) = (stage.mnt(""), stage.mnt("underneath"));
        let (top, below) = (&top, &below);
        std::thread::scope(|scope| {
            for user in [0, EVE, EVE] {
                scope.spawn(move || {
                    while std::time::Instant::now() < end {
                        as_user(user, || fs::metadata(below)).unwrap();
                        assert_eq!(as_user(user, || names(top)), ["underneath"]);
                    }
                });
            }
            for name in ["one", "two"] {
                let path = stage.mnt(name);
                scope.spawn(move || {
                    while std::time::Instant::now() < end {
                        as_user(ANN, || fs::create_dir(&path)).unwrap();
                        as_user(ANN, || fs::remove_dir(&path)).unwrap();
                    }
                });
            }
        });
    }
}

#[test]
fn set_user_id_given_to_a_file_while_another_writes_it_goes_with_the_next_write() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    for path in [stage.at("plain"), stage.mnt("underneath")] {
        fs::write(&path, "text").unwrap();
        chown(&path, Some(EVE), Some(EVE)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let open = || fs::OpenOptions::new().write(true).open(&path);
        let mut file = as_user(EVE + 1, open).unwrap();
        as_user(EVE, || fs::set_permissions(&path, fs::Permissions::from_mode(0o4777))).unwrap();
        as_user(EVE + 1, || file.write_all(b"evil")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "{}", path.display());
    }
}
