//! Trees on disks of several kinds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::{ANN, BEN, Stage, as_user, can_mount, mount, overlay, wait_for};

#[test]
fn a_user_cannot_fill_what_a_disk_keeps_for_root() {
    if !can_mount() {
        return;
    }
    for options in [&[][..], &["--no-passthrough"]] {
        let mut stage = Stage::prepare();
        let (image, tree) = (stage.at("image"), stage.at(&format!("tree-{ANN}")));
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        let made = make.args(["-q", "-O", "^has_journal", "-m", "50"]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            return eprintln!("SKIP: there is no `mkfs.ext4`");
        }
        let Some(disk) = mount(&["-o", "loop", image.to_str().unwrap()], &tree) else { return };
        stage.make_tree(&ANN.to_string(), ANN);
        stage.serve(options);
        // A process of the user's, with none of root's capabilities.
        let mut fill = Command::new("dd");
        let to = format!("of={}", stage.mnt("file").display());
        fill.args(["if=/dev/zero", "bs=64k", "count=512", &to]);
        let filled = fill.uid(ANN).gid(ANN).output().unwrap();
        assert!(!filled.status.success(), "{options:?}: all of the disk was written");
        let used = || fs::metadata(stage.tree(ANN, "file")).unwrap().blocks() * 512;
        assert!((8 << 20..17 << 20).contains(&used()), "{options:?}: {} bytes", used());
        // With the kernel at work itself, writing to memory without a place on the disk ends the program.
        if !options.is_empty() {
            as_user(ANN, || fill_by_memory(&stage.mnt("file"), 32 << 20));
            assert!((8 << 20..17 << 20).contains(&used()), "{options:?}: {} bytes", used());
        }
        drop(stage);
        drop(disk);
    }
}

#[test]
fn many_files_without_handles_and_on_mounts_inside_a_tree_cost_no_descriptors() {
    if !can_mount() {
        return;
    }
    let inside = |stage: &Stage| {
        let at = stage.tree(ANN, "sub");
        fs::create_dir(&at).unwrap();
        mount(&["-t", "tmpfs", "-o", "mode=777", "tmpfs"], &at)
    };
    for make in [&(|stage: &Stage| overlay(stage, ANN)) as &dyn Fn(&Stage) -> _, &inside] {
        let mut stage = Stage::prepare();
        let Some(disk) = make(&stage) else { continue };
        for dir in 0..150 {
            let dir = stage.tree(ANN, "sub").join(dir.to_string());
            fs::create_dir_all(&dir).unwrap();
            for file in 0..10 {
                let file = dir.join(file.to_string());
                fs::write(&file, "text").unwrap();
                chown(&file, Some(ANN), Some(ANN)).unwrap();
            }
            chown(&dir, Some(ANN), Some(ANN)).unwrap();
        }
        chown(stage.tree(ANN, "sub"), Some(ANN), Some(ANN)).unwrap();
        stage.serve_with_files(Some(1024), &[]);
        let sub = stage.mnt("sub");
        let paths = || (0..150).flat_map(|dir| (0..10).map(move |file| format!("{dir}/{file}")));
        as_user(ANN, || {
            for path in paths() {
                assert_eq!(fs::metadata(sub.join(&path)).unwrap().len(), 4, "{path}");
                assert_eq!(fs::read(sub.join(&path)).unwrap(), b"text", "{path}");
            }
        });
        // Names for which nothing is looked up.
        let named: usize = as_user(ANN, || {
            (0..150).map(|dir| fs::read_dir(sub.join(dir.to_string())).unwrap().count()).sum()
        });
        assert_eq!(named, 1500);
        let open = fs::read_dir(format!("/proc/{}/fd", stage.server().id())).unwrap().count();
        assert!(open < 600, "{open} descriptors");
        as_user(BEN, || fs::write(stage.mnt("file"), "text")).unwrap();
        // What is renamed, and what lies above it, is found again; so is what has no name any more but is open.
        as_user(ANN, || {
            let mut open = File::open(sub.join("7/7")).unwrap();
            fs::rename(sub.join("7"), sub.join("0/seven")).unwrap();
            fs::rename(sub.join("0/seven/7"), sub.join("seven")).unwrap();
            fs::set_permissions(sub.join("seven"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(sub.join("0/seven/8"), "another").unwrap();
            fs::remove_file(sub.join("seven")).unwrap();
            assert_eq!(open.metadata().unwrap().mode() & 0o777, 0o600);
            let mut text = String::new();
            open.read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        });
        assert_eq!(fs::read(stage.tree(ANN, "sub/0/seven/8")).unwrap(), b"another");
        drop(stage);
        drop(disk);
    }
}

#[test]
fn a_tree_that_is_shown_no_more_can_be_unmounted() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    let tree = stage.at(&format!("tree-{ANN}"));
    let Some(disk) = mount(&["-t", "tmpfs", "tmpfs"], &tree) else { return };
    stage.make_tree(&ANN.to_string(), ANN);
    stage.serve(&[]);
    let link = stage.at(&format!("scoreboard/{ANN}"));
    for changed in [false, true] {
        as_user(ANN, || fs::create_dir_all(stage.mnt("a/b"))).unwrap();
        as_user(ANN, || fs::write(stage.mnt("a/b/c"), "text")).unwrap();
        as_user(ANN, || fs::write(stage.mnt("d"), "text")).unwrap();
        if changed {
            stage.make_tree("next", ANN);
            stage.link(ANN, "next");
        } else {
            fs::remove_file(&link).unwrap();
        }
        // Nobody looks at the mount; a filesystem that nobody holds is the only one that unmounts.
        wait_for("the tree to be let go", || {
            Command::new("umount").arg(&tree).output().unwrap().status.success()
        });
        if !changed {
            mount(&["-t", "tmpfs", "tmpfs"], &tree).map(std::mem::forget).unwrap();
            stage.make_tree(&ANN.to_string(), ANN);
            stage.link(ANN, &ANN.to_string());
        }
    }
    drop(stage);
    drop(disk);
}

/// The kernel keeps what is below a name that another user has looked up while a process was in it.
#[test]
fn a_mount_inside_a_tree_that_is_shown_no_more_can_be_unmounted() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    for user in [ANN, BEN] {
        stage.make_tree(&user.to_string(), user);
        fs::create_dir_all(stage.tree(user, "users/home/inner")).unwrap();
    }
    let inside = stage.tree(ANN, "users/home");
    let Some(disk) = mount(&["-t", "tmpfs", "tmpfs"], &inside) else { return };
    fs::create_dir(inside.join("inner")).unwrap();
    stage.serve(&[]);
    let at = stage.mnt("users/home/inner");
    let mut sleeper = Command::new("sleep");
    let mut sleeper = sleeper.arg("100").uid(ANN).gid(ANN).current_dir(&at).spawn().unwrap();
    let looked = as_user(BEN, || fs::metadata(&at).map(drop));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    looked.unwrap();
    fs::remove_file(stage.at(&format!("scoreboard/{ANN}"))).unwrap();
    wait_for("the mount to be let go", || {
        Command::new("umount").arg(&inside).output().unwrap().status.success()
    });
    assert!(as_user(BEN, || at.is_dir()), "the other's is shown all the same");
    drop(stage);
    drop(disk);
}

/// Writes a file anew through shared memory. Where the disk is full the pages are lost.
fn fill_by_memory(path: &Path, size: usize) {
    let file = OpenOptions::new().read(true).write(true).truncate(true).open(path).unwrap();
    for piece in (0..size).step_by(1 << 20) {
        file.set_len((piece + (1 << 20)) as u64).unwrap();
        // SAFETY: a mapping of its own, of a size that the file has, unmapped before the file is closed.
        let stored = unsafe {
            let how = libc::PROT_READ | libc::PROT_WRITE;
            let fd = file.as_raw_fd();
            let at = libc::mmap(
                std::ptr::null_mut(),
                1 << 20,
                how,
                libc::MAP_SHARED,
                fd,
                piece as libc::off_t,
            );
            assert_ne!(at, libc::MAP_FAILED);
            at.cast::<u8>().write_bytes(1, 1 << 20);
            let stored = libc::msync(at, 1 << 20, libc::MS_SYNC);
            libc::munmap(at, 1 << 20);
            stored
        };
        if stored != 0 {
            return;
        }
    }
}
