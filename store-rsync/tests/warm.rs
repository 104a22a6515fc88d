//! Trees kept warm: random plans of steps compared with plain copies, and every way such a tree could be wrong.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use obuilder_core::Store;
use obuilder_core::contracts::{Base, Pending};
use store_rsync::{Mode, RsyncStore, WarmTrees};
use tree_copy::testing::{Random, make_awkward, mutate};
use tree_copy::{Options, copy_tree, digest_tree};

use common::{Place, id, leftovers, open_warm, plain, xfs};

/// Every path with its inode and modification time.
fn stats(root: &Path) -> HashMap<PathBuf, (u64, i64, i64)> {
    let (mut all, mut dirs) = (HashMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            all.insert(name, (meta.ino(), meta.mtime(), meta.mtime_nsec()));
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    all
}

fn inodes(root: &Path) -> HashSet<u64> {
    stats(root).into_values().map(|(inode, ..)| inode).collect()
}

/// Contents, attributes, times, and which names are one inode.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    assert_eq!(digest_tree(a, None).unwrap(), digest_tree(b, None).unwrap());
    let (a, b) = (stats(a), stats(b));
    let mut of = HashMap::new();
    for (path, (inode, seconds, nanoseconds)) in &a {
        let (other, ..) = b[path];
        assert_eq!(b[path], (other, *seconds, *nanoseconds), "{}", path.display());
        assert_eq!(of.insert(*inode, other).unwrap_or(other), other, "{}", path.display());
    }
    assert_eq!(inodes_of(&a), inodes_of(&b));
}

fn inodes_of(stats: &HashMap<PathBuf, (u64, i64, i64)>) -> usize {
    stats.values().map(|(inode, ..)| inode).collect::<HashSet<_>>().len()
}

fn warm_dirs(place: &Path) -> Vec<PathBuf> {
    fs::read_dir(place.join("store/warm")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn rootfs(pending: &dyn Pending) -> PathBuf {
    pending.dir().join("rootfs")
}

/// No result shares an inode with a tree that a step has or may get.
fn assert_apart(store: &RsyncStore, place: &Path, pending: Option<&dyn Pending>) {
    let mut results = HashSet::new();
    for id in store.results().unwrap() {
        results.extend(inodes(&store.result(&id).unwrap().unwrap().rootfs()));
    }
    let writable = warm_dirs(place).into_iter().map(|dir| dir.join("rootfs"));
    for tree in writable.chain(pending.map(rootfs)) {
        assert!(results.is_disjoint(&inodes(&tree)), "{}", tree.display());
    }
}

fn random_run(place: &Place, mode: Mode, seed: u64) {
    let place = place.as_ref();
    let plain = tempfile::tempdir().unwrap();
    let copy_of = |number: u64| plain.path().join(number.to_string());
    let mut store = open_warm(place, mode);
    let name = |number: u64| id(&format!("{seed} {number}"));
    let random = &mut Random::new(seed);
    let first = store.begin(&name(0), Base::Empty).unwrap();
    make_awkward(&rootfs(&*first), 60, seed).unwrap();
    copy_tree(&rootfs(&*first), &copy_of(0), &Options::default()).unwrap();
    first.commit().unwrap();
    for number in 1..14 {
        // Mostly on the last result, sometimes on another.
        let base = if random.below(3) > 0 { number - 1 } else { random.below(number) };
        let pending = store.begin(&name(number), Base::Result(&name(base))).unwrap();
        assert_same(&rootfs(&*pending), &copy_of(base));
        mutate(&rootfs(&*pending), 6, random).unwrap();
        assert_apart(&store, place, Some(&*pending));
        copy_tree(&rootfs(&*pending), &copy_of(number), &Options::default()).unwrap();
        fs::write(pending.dir().join("log"), number.to_string()).unwrap();
        pending.commit().unwrap();
        let made = store.result(&name(number)).unwrap().unwrap();
        assert_eq!(fs::read_to_string(made.log()).unwrap(), number.to_string());
        drop(made);
        if random.below(4) == 0 {
            drop(store.begin(&id("given up"), Base::Result(&name(number))).unwrap());
            drop(store);
            store = open_warm(place, mode);
            store.reconcile(&[]).unwrap();
        }
    }
    for number in 0..14 {
        let made = store.result(&name(number)).unwrap().unwrap();
        assert_same(&made.rootfs(), &copy_of(number));
        let names: Vec<_> = fs::read_dir(made.dir()).unwrap().collect();
        assert!(names.len() <= 2, "{names:?}");
    }
    assert_apart(&store, place, None);
}

#[test]
fn random_runs_equal_plain_copies() {
    for seed in 0..4 {
        random_run(&plain().unwrap(), Mode::Auto, seed);
    }
}

#[test]
fn random_runs_equal_plain_copies_with_clones() {
    let Some(place) = xfs() else { return };
    for seed in 10..13 {
        random_run(&place, Mode::Reflink, seed);
        fs::remove_dir_all(place.as_ref().join("store")).unwrap();
    }
}

/// A result with `files` files, and a second one on it, whose tree is warm.
fn two(store: &RsyncStore, files: usize) {
    let first = store.begin(&id("a"), Base::Empty).unwrap();
    for number in 0..files {
        fs::write(rootfs(&*first).join(number.to_string()), format!("{number:06}")).unwrap();
    }
    first.commit().unwrap();
    next(store, "a", "b", |_| ());
}

fn next(store: &RsyncStore, base: &str, name: &str, step: impl FnOnce(&Path)) {
    let pending = store.begin(&id(name), Base::Result(&id(base))).unwrap();
    step(&rootfs(&*pending));
    pending.commit().unwrap();
}

fn read(store: &RsyncStore, name: &str, file: &str) -> String {
    fs::read_to_string(store.result(&id(name)).unwrap().unwrap().rootfs().join(file)).unwrap()
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// Changes a file without changing its size and modification time.
fn overwrite(path: &Path, text: &str) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    file.set_modified(modified).unwrap();
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

fn last_of(store: &RsyncStore) -> usize {
    (0..).find(|number| store.result(&id(&format!("kill {number}"))).unwrap().is_none()).unwrap()
        - 1
}

/// Not a test by itself: makes one result after the other until it is killed.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os("STORE_RSYNC_WARM_DIR") else { return };
    let store = open_warm(Path::new(&dir), Mode::Auto);
    let last = last_of(&store);
    std::io::Write::write_all(&mut std::io::stdout(), b"\nREADY\n").unwrap();
    for number in last + 1..last + 10_000 {
        // Now and then on an older one, so that trees change their state.
        let base = if number % 5 == 4 { number - 3 } else { number - 1 };
        next(&store, &format!("kill {base}"), &format!("kill {number}"), |tree| {
            overwrite(&tree.join("7"), &format!("{number:06}"));
            fs::write(tree.join(format!("new {}", number % 10)), number.to_string()).unwrap();
        });
    }
}

#[test]
fn a_kill_at_any_moment_leaves_no_wrong_tree() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let place = plain().unwrap();
    let dir = place.as_ref();
    {
        let store = open_warm(dir, Mode::Auto);
        two(&store, 60);
        next(&store, "b", "kill 0", |tree| overwrite(&tree.join("7"), "000000"));
    }
    let mut checked = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_process", "--exact", "--nocapture"])
            .env("STORE_RSYNC_WARM_DIR", dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("READY")));
        let second = dir.join("store/result").join(id(&format!("kill {}", checked + 2)).as_str());
        let start = Instant::now();
        while !second.exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "the child makes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(5 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open_warm(dir, Mode::Auto);
        store.reconcile(&[]).unwrap();
        let last = last_of(&store);
        for number in checked..=last {
            let name = format!("kill {number}");
            assert_eq!(read(&store, &name, "7"), format!("{number:06}"));
            assert_eq!(read(&store, &name, "8"), "000008");
        }
        for base in [last, last.saturating_sub(3)] {
            let name = id(&format!("kill {base}"));
            let pending = store.begin(&id("after the kill"), Base::Result(&name)).unwrap();
            assert_same(&rootfs(&*pending), &store.result(&name).unwrap().unwrap().rootfs());
            assert_apart(&store, dir, Some(&*pending));
        }
        checked = last;
    }
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
