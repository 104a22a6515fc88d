//! Trees kept warm: random plans of steps compared with plain copies, and every way such a tree could be wrong.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::HashSet;
use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use obuilder_core::Store;
use obuilder_core::contracts::Base;
use store_rsync::{Mode, RsyncStore, WarmTrees};
use tree_copy::{Options, copy_tree};

use common::trees::{inode, inodes, next, overwrite, random_run, read, rootfs, two, warm_dirs};
use common::{id, leftovers, open_warm, plain};

#[test]
fn random_runs_equal_plain_copies() {
    // As many as one likes: every file of every result is compared after each run.
    let runs = std::env::var("OBUILD_TEST_ROUNDS").map_or(4, |text| text.parse().unwrap());
    for seed in 0..runs {
        random_run(&plain().unwrap(), Mode::Auto, seed);
    }
}

fn overwrite_mapped(path: &Path, byte: u8) {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: the mapping is ours alone and lies within the file's only page.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let at: *mut c_void =
            mmap(std::ptr::null_mut(), 4096, protection, MapFlags::SHARED, &file, 0).unwrap();
        at.cast::<u8>().read_volatile();
        at.cast::<u8>().write_volatile(byte);
        munmap(at, 4096).unwrap();
    }
}

#[test]
fn the_next_step_gets_the_very_tree_back_and_results_share_what_it_left_alone() {
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Auto);
    two(&store, 5);
    let tree = inode(&warm_dirs(place.as_ref())[0].join("rootfs/1"));
    let pending = store.begin(&id("c"), Base::Result(&id("b"))).unwrap();
    assert_eq!(inode(&rootfs(&*pending).join("1")), tree);
    assert!(warm_dirs(place.as_ref()).is_empty());
    fs::write(rootfs(&*pending).join("1"), "other").unwrap();
    pending.commit().unwrap();
    let of = |name: &str, file: &str| {
        inode(&store.result(&id(name)).unwrap().unwrap().rootfs().join(file))
    };
    assert_eq!(of("a", "2"), of("c", "2"));
    assert_ne!(of("b", "1"), of("c", "1"));
    assert_eq!(
        (read(&store, "b", "1").as_str(), read(&store, "c", "1").as_str()),
        ("000001", "other")
    );
}

#[test]
fn copy_mode_shares_nothing_and_keeps_nothing_warm() {
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Copy);
    two(&store, 5);
    let tree = |name| inodes(&store.result(&id(name)).unwrap().unwrap().rootfs());
    assert!(tree("a").is_disjoint(&tree("b")));
    assert!(warm_dirs(place.as_ref()).is_empty());
}

/// Every step changes a file at once, in the very tick in which it got the tree if the clock is that slow.
#[test]
fn changes_that_only_the_ctime_tells_are_caught_however_fast_they_come() {
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Auto);
    two(&store, 4);
    let mut base = "b".to_owned();
    for round in 0..60 {
        let name = format!("round {round}");
        let file = (round % 4).to_string();
        next(&store, &base, &name, |tree| match round % 3 {
            0 => overwrite(&tree.join(&file), &format!("{round:06}")),
            1 => {
                let path = tree.join(&file);
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                overwrite_mapped(&path, b'0' + (round % 10) as u8);
                File::open(&path).unwrap().set_modified(modified).unwrap();
            }
            _ => {
                fs::copy(tree.join(&file), tree.join("new")).unwrap();
                overwrite(&tree.join("new"), &format!("{round:06}"));
                fs::rename(tree.join("new"), tree.join(&file)).unwrap();
            }
        });
        let text = read(&store, &name, &file);
        let expected = if round % 3 == 1 {
            format!("{}{}", round % 10, &read(&store, &base, &file)[1..])
        } else {
            format!("{round:06}")
        };
        assert_eq!(text, expected, "round {round}");
        base = name;
    }
}

#[test]
fn a_tree_survives_a_restart_and_a_damaged_index_costs_time_alone() {
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Auto);
    two(&store, 5);
    drop(store);
    let store = open_warm(place.as_ref(), Mode::Auto);
    assert_eq!(store.reconcile(&[id("a"), id("b")]).unwrap().swept, [""; 0]);
    let tree = inode(&warm_dirs(place.as_ref())[0].join("rootfs/1"));
    next(&store, "b", "c", |root| assert_eq!(inode(&root.join("1")), tree));
    for (damage, name) in [(200, "d"), (10, "e")] {
        let index = warm_dirs(place.as_ref())[0].join("obuild-index");
        OpenOptions::new()
            .write(true)
            .open(index)
            .unwrap()
            .write_all_at(b"\xff\xff", damage)
            .unwrap();
        let pending = store.begin(&id(name), Base::Result(&id("c"))).unwrap();
        fs::write(rootfs(&*pending).join("1"), name).unwrap();
        pending.commit().unwrap();
        assert_eq!(
            (read(&store, name, "1").as_str(), read(&store, name, "2").as_str()),
            (name, "000002")
        );
        next(&store, "b", "again", |_| ());
        next(&store, "b", "c", |_| ());
        assert!(store.delete(&id("again")).unwrap() && store.delete(&id("c")).unwrap());
        next(&store, "b", "c", |_| ());
    }
}

/// A result that was deleted and made anew under its id, with other contents, has nothing to do with the old one's tree.
#[test]
fn a_tree_of_a_deleted_result_is_never_used() {
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Auto);
    two(&store, 5);
    assert_eq!(warm_dirs(place.as_ref()).len(), 1);
    let late = store.begin(&id("late"), Base::Result(&id("b"))).unwrap();
    assert!(store.delete(&id("b")).unwrap());
    next(&store, "a", "b", |root| overwrite(&root.join("3"), "anew!!"));
    late.commit().unwrap();
    assert_eq!(
        (read(&store, "late", "3").as_str(), read(&store, "b", "3").as_str()),
        ("000003", "anew!!")
    );
    assert!(store.delete(&id("b")).unwrap());
    assert!(warm_dirs(place.as_ref()).is_empty(), "they go with their result");
    next(&store, "a", "b", |root| overwrite(&root.join("3"), "other!"));
    // As if another program had deleted and remade the result.
    let result = place.as_ref().join("store/result").join(id("b").as_str());
    fs::rename(&result, place.as_ref().join("away")).unwrap();
    copy_tree(&place.as_ref().join("away"), &result, &Options::default()).unwrap();
    overwrite(&result.join("rootfs/3"), "theirs");
    next(&store, "b", "c", |root| {
        assert_eq!(fs::read_to_string(root.join("3")).unwrap(), "theirs")
    });
    assert!(store.result(&id("c")).unwrap().is_some());
}

#[test]
fn few_trees_are_kept_and_all_are_given_up_on_request() {
    let place = plain().unwrap();
    let warm = WarmTrees { most: 2, least_entries: 3, ..WarmTrees::default() };
    let path = place.as_ref().join("store");
    let store = RsyncStore::open_with(&path, Mode::Auto, warm).unwrap();
    two(&store, 50);
    let held: Vec<_> = ["c", "d", "e"]
        .map(|name| store.begin(&id(name), Base::Result(&id("b"))).unwrap())
        .into_iter()
        .collect();
    held.into_iter().for_each(|pending| pending.commit().unwrap());
    assert_eq!(warm_dirs(place.as_ref()).len(), 2);
    let bytes = store.drop_warm(true).unwrap();
    assert!(bytes >= 2 * 50 * 4096, "{bytes}");
    assert_eq!(warm_dirs(place.as_ref()).len(), 2);
    assert_eq!(store.drop_warm(false).unwrap(), bytes);
    assert_eq!((warm_dirs(place.as_ref()).len(), store.drop_warm(true).unwrap()), (0, 0));
    next(&store, "b", "f", |_| ());
    let short = WarmTrees { longest: Duration::ZERO, ..warm };
    drop(store);
    let store = RsyncStore::open_with(&path, Mode::Auto, short).unwrap();
    assert_eq!(store.reconcile(&[]).unwrap().swept, [""; 0], "it is whole, but old");
    assert_eq!(warm_dirs(place.as_ref()).len(), 0);
    drop(store);
    assert!(leftovers(place.as_ref()).is_empty());
}

#[test]
fn broken_trees_are_swept() {
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Auto);
    two(&store, 5);
    let warm = place.as_ref().join("store/warm");
    let whole = warm_dirs(place.as_ref()).remove(0);
    for name in ["half", "no-index", "of-nothing"] {
        fs::create_dir(warm.join(name)).unwrap();
    }
    fs::create_dir(warm.join("no-index/rootfs")).unwrap();
    fs::create_dir(warm.join("of-nothing/rootfs")).unwrap();
    let index = fs::read(whole.join("obuild-index")).unwrap();
    fs::write(warm.join("of-nothing/obuild-index"), index).unwrap();
    assert_eq!(store.reconcile(&[]).unwrap().swept.len(), 2, "the third looks whole");
    store.delete(&id("b")).unwrap();
    fs::rename(place.as_ref().join("store/warm/of-nothing"), warm.join("x")).unwrap();
    assert_eq!(store.reconcile(&[]).unwrap().swept.len(), 1);
    assert!(warm_dirs(place.as_ref()).is_empty());
}

/// Another build user gets the tree: everything has another owner, and so has the result.
#[test]
fn a_tree_that_changes_its_owner_makes_results_that_do() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can give files away");
        return;
    }
    let place = plain().unwrap();
    let store = open_warm(place.as_ref(), Mode::Auto);
    two(&store, 5);
    let owner = |name: &str| {
        let rootfs = store.result(&id(name)).unwrap().unwrap().rootfs();
        let uids =
            fs::read_dir(rootfs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().uid());
        uids.collect::<HashSet<_>>()
    };
    next(&store, "b", "c", |tree| assert!(tree_copy::chown_tree(tree, 1234, 1234).unwrap() > 5));
    next(&store, "c", "d", |_| ());
    assert_eq!((owner("b"), owner("c"), owner("d")), ([0].into(), [1234].into(), [1234].into()));
    next(&store, "b", "e", |tree| {
        assert_eq!(fs::metadata(tree.join("1")).unwrap().uid(), 0);
    });
}
