//! Results on results, and how to compare what they hold.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use obuilder_core::Store;
use obuilder_core::contracts::{Base, Pending};
use store_rsync::{Mode, RsyncStore};
use tree_copy::testing::{Random, make_awkward, mutate};
use tree_copy::{Options, copy_tree, digest_tree};

use super::{Place, id, open_warm};

/// Every path with its inode and modification time.
pub(crate) fn stats(root: &Path) -> HashMap<PathBuf, (u64, i64, i64)> {
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

pub(crate) fn inodes(root: &Path) -> HashSet<u64> {
    stats(root).into_values().map(|(inode, ..)| inode).collect()
}

/// Contents, attributes, times, and which names are one inode.
#[track_caller]
pub(crate) fn assert_same(a: &Path, b: &Path) {
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

pub(crate) fn inodes_of(stats: &HashMap<PathBuf, (u64, i64, i64)>) -> usize {
    stats.values().map(|(inode, ..)| inode).collect::<HashSet<_>>().len()
}

pub(crate) fn warm_dirs(place: &Path) -> Vec<PathBuf> {
    fs::read_dir(place.join("store/warm")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

pub(crate) fn rootfs(pending: &dyn Pending) -> PathBuf {
    pending.dir().join("rootfs")
}

/// No result shares an inode with a tree that a step has or may get.
pub(crate) fn assert_apart(store: &RsyncStore, place: &Path, pending: Option<&dyn Pending>) {
    let mut results = HashSet::new();
    for id in store.results().unwrap() {
        results.extend(inodes(&store.result(&id).unwrap().unwrap().rootfs()));
    }
    let writable = warm_dirs(place).into_iter().map(|dir| dir.join("rootfs"));
    for tree in writable.chain(pending.map(rootfs)) {
        assert!(results.is_disjoint(&inodes(&tree)), "{}", tree.display());
    }
}

pub(crate) fn random_run(place: &Place, mode: Mode, seed: u64) {
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

/// A result with `files` files, and a second one on it, whose tree is warm.
pub(crate) fn two(store: &RsyncStore, files: usize) {
    let first = store.begin(&id("a"), Base::Empty).unwrap();
    for number in 0..files {
        fs::write(rootfs(&*first).join(number.to_string()), format!("{number:06}")).unwrap();
    }
    first.commit().unwrap();
    next(store, "a", "b", |_| ());
}

pub(crate) fn next(store: &RsyncStore, base: &str, name: &str, step: impl FnOnce(&Path)) {
    let pending = store.begin(&id(name), Base::Result(&id(base))).unwrap();
    step(&rootfs(&*pending));
    pending.commit().unwrap();
}

pub(crate) fn read(store: &RsyncStore, name: &str, file: &str) -> String {
    fs::read_to_string(store.result(&id(name)).unwrap().unwrap().rootfs().join(file)).unwrap()
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// Changes a file without changing its size and modification time.
pub(crate) fn overwrite(path: &Path, text: &str) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    file.set_modified(modified).unwrap();
}
