//! What programs expect of files.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Instant;

use common::plan::Dice;
use common::{ANN, BEN, EVE, Stage, Unmount, as_user, can_mount, errno, wait_for};

/// As root, with a tree for root as well, so that everything in a test may be done by its own threads.
fn stage(options: &[&str]) -> Stage {
    Stage::with(options)
}

#[test]
fn unlinked_files_and_directories_live_on_while_they_are_open() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    for dir in ["", "below"] {
        let dir = stage.mnt(dir);
        as_user(ANN, || {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("f"), "text").unwrap();
            let open = OpenOptions::new().read(true).write(true).open(dir.join("f")).unwrap();
            fs::remove_file(dir.join("f")).unwrap();
            open.write_all_at(b"more", 4).unwrap();
            let mut bytes = [0; 8];
            open.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"textmore");
            let meta = open.metadata().unwrap();
            assert_eq!((meta.nlink(), meta.len()), (0, 8));
            open.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
            open.set_len(2).unwrap();
            assert_eq!(open.metadata().unwrap().len(), 2);
            // A new file of the same name is another one.
            fs::write(dir.join("f"), "new").unwrap();
            assert_eq!(open.metadata().unwrap().len(), 2);
            // So is a directory that takes the place of a removed one that is still open.
            fs::create_dir(dir.join("d")).unwrap();
            let held = File::open(dir.join("d")).unwrap();
            fs::remove_dir(dir.join("d")).unwrap();
            fs::create_dir(dir.join("d")).unwrap();
            fs::write(dir.join("d/inside"), "").unwrap();
            assert_eq!(
                errno(
                    rustix::fs::openat(
                        &held,
                        "inside",
                        rustix::fs::OFlags::RDONLY,
                        rustix::fs::Mode::empty()
                    )
                    .map_err(Into::into)
                ),
                libc::ENOENT
            );
            assert_eq!(fs::read_dir(dir.join("d")).unwrap().count(), 1);
        });
    }
}

#[test]
fn hard_links_share_a_number_that_stays() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    as_user(ANN, || {
        fs::create_dir(stage.mnt("d")).unwrap();
        fs::write(stage.mnt("d/one"), "text").unwrap();
        fs::hard_link(stage.mnt("d/one"), stage.mnt("two")).unwrap();
        let number = |path: &str| fs::metadata(stage.mnt(path)).unwrap().ino();
        let first = number("two");
        assert_eq!(number("d/one"), first);
        fs::write(stage.mnt("two"), "longer text").unwrap();
        assert_eq!(fs::metadata(stage.mnt("d/one")).unwrap().len(), 11);
        fs::set_permissions(stage.mnt("d/one"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(stage.mnt("two")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(stage.mnt("two")).unwrap().nlink(), 2);
        fs::rename(stage.mnt("d/one"), stage.mnt("d/three")).unwrap();
        assert_eq!(number("d/three"), first);
        fs::remove_file(stage.mnt("two")).unwrap();
        assert_eq!(fs::metadata(stage.mnt("d/three")).unwrap().nlink(), 1);
        // The listing tells the same numbers.
        let listed: Vec<_> = fs::read_dir(stage.mnt("d"))
            .unwrap()
            .map(|e| std::os::unix::fs::DirEntryExt::ino(&e.unwrap()))
            .collect();
        assert_eq!(listed, [first]);
    });
    // The kernel forgets; the number stays all the same.
    let number = as_user(ANN, || fs::metadata(stage.mnt("d/three"))).unwrap().ino();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(as_user(ANN, || fs::metadata(stage.mnt("d/three"))).unwrap().ino(), number);
}

#[test]
fn nothing_is_renamed_to_the_top_from_further_below() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    let swap = |one: &str, two: &str| {
        let cwd = rustix::fs::CWD;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(cwd, stage.mnt(one), cwd, stage.mnt(two), flags)
    };
    as_user(ANN, || {
        fs::create_dir_all(stage.mnt("d/sub")).unwrap();
        fs::write(stage.mnt("d/file"), "ann's").unwrap();
        symlink("file", stage.mnt("d/link")).unwrap();
        fs::write(stage.mnt("top"), "").unwrap();
        for name in ["file", "link", "sub"] {
            let below = format!("d/{name}");
            assert_eq!(errno(fs::rename(stage.mnt(&below), stage.mnt(name))), libc::EXDEV);
            assert_eq!(swap(&below, "top").unwrap_err(), rustix::io::Errno::XDEV);
            assert_eq!(swap("top", &below).unwrap_err(), rustix::io::Errno::XDEV);
            // As between filesystems, `mv` copies.
            let moved = std::process::Command::new("mv")
                .args([stage.mnt(&below), stage.mnt(name)])
                .uid(ANN)
                .gid(ANN)
                .status()
                .unwrap();
            assert!(moved.success());
        }
        assert_eq!(fs::read_to_string(stage.mnt("link")).unwrap(), "ann's");
        fs::rename(stage.mnt("sub"), stage.mnt("other")).unwrap();
        fs::rename(stage.mnt("other"), stage.mnt("d/sub")).unwrap();
        fs::rename(stage.mnt("top"), stage.mnt("d/top")).unwrap();
    });
    for path in ["file", "link", "sub", "other"] {
        assert_eq!(errno(as_user(BEN, || fs::symlink_metadata(stage.mnt(path)))), libc::ENOENT);
    }
}

#[test]
fn locks_hold_between_users_of_a_file() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    as_user(ANN, || {
        fs::create_dir(stage.mnt("d")).unwrap();
        for path in ["f", "d/f"] {
            fs::write(stage.mnt(path), "text").unwrap();
            let open = || OpenOptions::new().read(true).write(true).open(stage.mnt(path)).unwrap();
            let (one, two) = (open(), open());
            one.lock().unwrap();
            assert!(two.try_lock().is_err());
            one.unlock().unwrap();
            two.try_lock().unwrap();
            two.unlock().unwrap();
            // Open file description locks, which exclude each other within one process.
            let lock = |file: &File, kind: i32| {
                let lock = libc::flock {
                    l_type: kind as i16,
                    l_whence: 0,
                    l_start: 1,
                    l_len: 2,
                    l_pid: 0,
                };
                // SAFETY: an open file and a lock that outlives the call.
                unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }
            };
            assert_eq!(lock(&one, libc::F_WRLCK), 0);
            assert_eq!(lock(&two, libc::F_RDLCK), -1);
            drop(one);
            assert_eq!(lock(&two, libc::F_RDLCK), 0);
        }
    });
}

#[test]
fn listings_stay_right_while_entries_come_and_go() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    for dir in ["", "below"] {
        let dir = stage.mnt(dir);
        as_user(ANN, || {
            fs::create_dir_all(&dir).unwrap();
            for number in 0..600 {
                fs::write(dir.join(format!("stay-{number}")), "").unwrap();
                fs::write(dir.join(format!("go-{number}")), "").unwrap();
            }
            let mut seen = BTreeSet::new();
            for (number, entry) in fs::read_dir(&dir).unwrap().enumerate() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(seen.insert(name.clone()), "{name} twice");
                if number < 600 {
                    fs::remove_file(dir.join(format!("go-{number}"))).unwrap();
                    fs::write(dir.join(format!("come-{number}")), "").unwrap();
                }
            }
            assert_eq!(seen.iter().filter(|name| name.starts_with("stay-")).count(), 600);
            let again = fs::read_dir(&dir).unwrap().count();
            assert_eq!(
                again,
                1200 + usize::from(dir == stage.mnt("") && dir.join("below").exists())
            );
        });
    }
}

#[test]
fn descriptors_stay_bounded_when_many_files_are_visited() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    as_user(ANN, || {
        for dir in 0..300 {
            let dir = stage.mnt(&format!("d/{dir}/e/f"));
            fs::create_dir_all(&dir).unwrap();
            (0..10).for_each(|file| fs::write(dir.join(file.to_string()), "").unwrap());
        }
        fn count(dir: &Path) -> usize {
            fs::read_dir(dir)
                .unwrap()
                .map(|e| e.unwrap())
                .map(|e| {
                    1 + if e.file_type().unwrap().is_dir() {
                        count(&e.path())
                    } else {
                        usize::from(e.metadata().is_err())
                    }
                })
                .sum()
        }
        assert_eq!(count(&stage.mnt("d")), 300 * 13);
    });
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", stage.server().id())).unwrap().count();
    assert!(descriptors() < 3 * 301 + 100, "{} descriptors", descriptors());
    // What the kernel forgets is forgotten here, too.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    wait_for("the kernel to forget", || {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let said = stage.command(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        status["nodes"].as_u64().unwrap() < 100 && descriptors() < 150
    });
}

#[test]
fn many_users_work_at_once() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    let users: Vec<u32> = (0..12).map(|number| 1_200_200 + number).collect();
    for user in &users {
        stage.make_tree(&user.to_string(), *user);
        stage.link(*user, &user.to_string());
    }
    stage.serve(&["--workers", "2"]);
    std::thread::scope(|scope| {
        for user in &users {
            let stage = &stage;
            scope.spawn(move || {
                as_user(*user, || {
                    for round in 0..60 {
                        let dir = stage.mnt(&format!("dir/{}", round % 3));
                        fs::create_dir_all(&dir).unwrap();
                        fs::write(dir.join("name"), format!("{user} {round}")).unwrap();
                        let top = || stage.mnt("top");
                        assert_eq!(errno(fs::rename(dir.join("name"), top())), libc::EXDEV);
                        fs::copy(dir.join("name"), stage.mnt("fresh")).unwrap();
                        fs::rename(stage.mnt("fresh"), top()).unwrap();
                        assert_eq!(
                            fs::read_to_string(stage.mnt("top")).unwrap(),
                            format!("{user} {round}")
                        );
                        assert_eq!(fs::metadata(stage.mnt("top")).unwrap().uid(), *user);
                        if round % 7 == 0 {
                            fs::remove_dir_all(stage.mnt("dir")).unwrap();
                        }
                    }
                });
            });
        }
    });
}

#[test]
fn rights_are_those_of_a_plain_directory() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]);
    let plain = stage.at("plain");
    fs::create_dir(&plain).unwrap();
    for root in [plain.clone(), stage.tree(ANN, "")] {
        fs::create_dir(root.join("d")).unwrap();
        for mode in 0..8u32 {
            let (file, dir) = (root.join(format!("d/f{mode}")), root.join(format!("d/d{mode}")));
            fs::write(&file, "text").unwrap();
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("x"), "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    let try_all = |root: &Path| {
        let mut said = Vec::new();
        for mode in 0..8u32 {
            let (file, dir) = (root.join(format!("d/f{mode}")), root.join(format!("d/d{mode}")));
            said.push([
                errno(File::open(&file)),
                errno(OpenOptions::new().write(true).open(&file)),
                errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o777))),
                errno(fs::remove_file(&file)),
                errno(fs::read_dir(&dir)),
                errno(fs::metadata(dir.join("x"))),
                errno(fs::write(dir.join("y"), "")),
                errno(symlink("x", dir.join("z"))),
                errno(fs::hard_link(dir.join("x"), dir.join("w"))),
                errno(fs::rename(dir.join("x"), dir.join("v"))),
                errno(fs::remove_dir(&dir)),
                errno(
                    File::open(&file)
                        .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH)),
                ),
            ]);
        }
        said
    };
    let here = as_user(ANN, || try_all(&stage.mnt("")));
    let there = as_user(EVE, || try_all(&plain));
    assert_eq!(here, there);
}

#[test]
fn random_reads_and_writes_find_what_was_written() {
    if !can_mount() {
        return;
    }
    for options in [&[][..], &["--no-passthrough"]] {
        let stage = stage(options);
        let begun = Instant::now();
        as_user(ANN, || {
            fs::create_dir(stage.mnt("d")).unwrap();
            for rounds in 600.. {
                exercise(&stage.mnt("d/file"), rounds);
                fs::remove_file(stage.mnt("d/file")).unwrap();
                if begun.elapsed() >= common::long().unwrap_or_default() {
                    break;
                }
            }
        });
    }
}

/// Reads, writes, maps, resizes and punches one file at random and compares it with what it should hold.
fn exercise(path: &Path, rounds: usize) {
    const MOST: usize = 200_000;
    let mut dice = Dice::new(rounds as u64);
    let mut want: Vec<u8> = Vec::new();
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    for round in 0..rounds {
        let (at, length) = (dice.below(MOST), 1 + dice.below(30_000));
        match dice.below(8) {
            0..3 => {
                let bytes: Vec<u8> = (0..length).map(|byte| (byte + round) as u8).collect();
                file.write_all_at(&bytes, at as u64).unwrap();
                want.resize(want.len().max(at + length), 0);
                want[at..at + length].copy_from_slice(&bytes);
            }
            3 => {
                file.set_len(at as u64).unwrap();
                want.resize(at, 0);
            }
            4 if at < want.len() => {
                let mode =
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, mode, at as u64, length as u64).unwrap();
                let end = want.len().min(at + length);
                want[at..end].fill(0);
            }
            5 if at < want.len() => {
                // SAFETY: a mapping of what the file holds, which is not resized meanwhile, and is unmapped here.
                unsafe {
                    let (protection, shared) =
                        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
                    let map = libc::mmap(
                        std::ptr::null_mut(),
                        want.len(),
                        protection,
                        shared,
                        file.as_raw_fd(),
                        0,
                    );
                    assert_ne!(map, libc::MAP_FAILED);
                    *map.cast::<u8>().add(at) = round as u8;
                    want[at] = round as u8;
                    libc::munmap(map, want.len());
                }
            }
            6 => file = OpenOptions::new().read(true).write(true).open(path).unwrap(),
            _ => {
                let mut bytes = vec![0; length];
                let read = file.read_at(&mut bytes, at as u64).unwrap();
                let end = want.len().min(at + length);
                let expected = want.get(at..end).unwrap_or_default();
                assert!(bytes[..read] == *expected, "round {round}: {read} bytes at {at}");
            }
        }
        assert_eq!(file.metadata().unwrap().len() as usize, want.len(), "round {round}");
    }
    assert!(fs::read(path).unwrap() == want);
}

#[test]
fn a_new_file_in_an_old_ones_inode_is_opened_where_files_do_not_know_when_they_were_made() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::prepare();
    let (image, tree) = (stage.at("image"), stage.at(&format!("tree-{ANN}")));
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let run = |program: &str, arguments: &[&str], path: &Path| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(&image).arg(path).output().is_ok_and(|out| out.status.success())
    };
    // Inodes of 128 bytes have no room for it.
    if !run("mkfs.ext4", &["-q", "-I", "128"], Path::new("16M"))
        || !run("mount", &["-o", "loop"], &tree)
    {
        return eprintln!("SKIP: no old ext4 can be made and mounted here");
    }
    let unmount = Unmount(tree);
    stage.make_tree(&ANN.to_string(), ANN);
    as_user(ANN, || fs::create_dir(stage.tree(ANN, "dir"))).unwrap();
    stage.serve(&[]);
    let mut inodes = BTreeSet::new();
    for text in ["one", "two", "three"] {
        let real = stage.tree(ANN, "dir/file");
        let _ = fs::remove_file(&real);
        fs::write(&real, text).unwrap();
        inodes.insert(fs::metadata(&real).unwrap().ino());
        let seen = as_user(ANN, || fs::read_to_string(stage.mnt("dir/file"))).unwrap();
        assert_eq!(seen, text);
    }
    assert!(inodes.len() < 3, "no inode was used again");
    drop(stage);
    drop(unmount);
}
