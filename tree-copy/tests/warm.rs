//! Snapshots of a tree that goes on being changed, and trees brought from one snapshot to another.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tree_copy::testing::{Random, make_awkward, mutate};
use tree_copy::{
    Draft, Error, Index, Known, Moment, Options, Snapped, Summary, Trust, bring_tree, check_index,
    copy_tree, digest_tree, index_tree, link_tree, plan_change, snapshot_tree,
};

/// Every path below `root` with its modification time, and which of them are one inode.
fn shape(root: &Path) -> (BTreeMap<PathBuf, (i64, i64)>, BTreeMap<PathBuf, PathBuf>) {
    let (mut times, mut links, mut first) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            times.insert(name.clone(), (meta.mtime(), meta.mtime_nsec()));
            if meta.is_dir() {
                dirs.push(path);
            } else {
                let group: &mut Vec<PathBuf> = first.entry(meta.ino()).or_default();
                group.push(name);
            }
        }
    }
    for mut group in first.into_values() {
        group.sort();
        group.iter().for_each(|name| drop(links.insert(name.clone(), group[0].clone())));
    }
    (times, links)
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    assert_eq!(shape(a), shape(b));
    assert_eq!(digest_tree(a, None).unwrap(), digest_tree(b, None).unwrap());
}

fn inodes(root: &Path) -> HashSet<u64> {
    let mut all = HashSet::new();
    for path in shape(root).0.into_keys() {
        let meta = fs::symlink_metadata(root.join(path)).unwrap();
        all.insert(meta.ino());
    }
    all
}

#[track_caller]
fn assert_apart(a: &Path, b: &Path) {
    assert!(inodes(a).is_disjoint(&inodes(b)));
}

/// Writes the index and reads it back, as another process would.
fn stored(dir: &Path, draft: &Draft) -> Index {
    draft.write(&dir.join("index"), b"note").unwrap();
    let summary = Summary::read(&dir.join("index")).unwrap().unwrap();
    let index = Index::read(&dir.join("index")).unwrap().unwrap();
    assert_eq!(index.summary, summary);
    assert_eq!((summary.note.as_slice(), summary.entries), (&b"note"[..], draft.entries()));
    index
}

/// Waits until the filesystem's clock has passed `newest`; what it says then.
fn pass(dir: &Path, newest: Moment) -> Moment {
    let start = Instant::now();
    loop {
        fs::write(dir.join("clock"), "").unwrap();
        let meta = fs::metadata(dir.join("clock")).unwrap();
        let now = Moment(meta.ctime(), meta.ctime_nsec());
        if now > newest {
            return now;
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn snap(tree: &Path, to: &Path, known: &Known<'_>) -> Snapped {
    snapshot_tree(tree, to, known, &Options::default()).unwrap()
}

const ALL_TRUSTED: Moment = Moment(i64::MAX, 0);

/// A tree with its first snapshot and index.
fn begin(dir: &Path, seed: u64) -> (PathBuf, PathBuf, Index) {
    let (tree, snapshot) = (dir.join("tree"), dir.join("0"));
    make_awkward(&snapshot, 120, seed).unwrap();
    copy_tree(&snapshot, &tree, &Options::default()).unwrap();
    let index = stored(dir, &index_tree(&tree, &snapshot).unwrap());
    (tree, snapshot, index)
}

/// Changes the tree of `begin` in `count` ways, and makes the snapshot number `round` of it, now and then one that was begun.
fn mutated(
    dir: &Path,
    round: u64,
    count: usize,
    before: &Path,
    index: &Index,
    random: &mut Random,
) -> (PathBuf, Snapped) {
    let (tree, to) = (dir.join("tree"), dir.join(round.to_string()));
    let trusted_before = pass(dir, index.summary.newest);
    mutate(&tree, count, random).unwrap();
    let begun = random.below(2) == 0;
    if begun {
        assert!(link_tree(before, &to, &Options::default()).unwrap().is_faithful());
    }
    let trust = Trust::Contents;
    let known = Known { index, snapshot: before, trusted_before, trust, begun };
    let snapped = snap(&tree, &to, &known);
    assert_same(&tree, &to);
    (to, snapped)
}

#[test]
fn snapshots_of_a_changing_tree_are_copies_of_it() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let (tree, mut before, mut index) = begin(dir.path(), seed);
        let random = &mut Random::new(seed);
        for round in 1..6 {
            let (to, snapped) = mutated(dir.path(), round, 12, &before, &index, random);
            assert_apart(&tree, &to);
            index = stored(dir.path(), &snapped.draft);
            assert!(snapped.linked > 0);
            before = to;
        }
    }
}

#[test]
fn a_tree_is_brought_from_any_snapshot_to_any_other() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let (tree, mut before, mut index) = begin(dir.path(), seed);
        let random = &mut Random::new(seed);
        for round in 1..8 {
            let (to, snapped) = mutated(dir.path(), round, 8, &before, &index, random);
            index = stored(dir.path(), &snapped.draft);
            let other = dir.path().join(random.below(round + 1).to_string());
            let plan = plan_change(&index, &other).unwrap();
            // What has the same shape may still have other contents.
            let same = other == to
                || shape(&other) == shape(&to)
                    && digest_tree(&other, None).unwrap() == digest_tree(&to, None).unwrap();
            assert_eq!(plan.cost() == 0, same, "{plan:?}");
            let (draft, copied) =
                bring_tree(&tree, &index, plan, &other, &Options::default()).unwrap();
            assert_eq!(copied.skipped, Vec::<PathBuf>::new());
            assert_same(&tree, &other);
            assert_apart(&tree, &other);
            index = stored(dir.path(), &draft);
            assert_eq!(plan_change(&index, &other).unwrap().cost(), 0);
            before = other;
        }
    }
}

#[test]
fn untouched_entries_are_linked_and_touched_ones_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, base, to) = (dir.path().join("tree"), dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&base).unwrap();
    for name in ["kept", "touched", "written"] {
        fs::write(base.join(name), name).unwrap();
    }
    copy_tree(&base, &tree, &Options::default()).unwrap();
    let index = stored(dir.path(), &index_tree(&tree, &base).unwrap());
    let trusted_before = pass(dir.path(), index.summary.newest);
    let modified = fs::metadata(tree.join("written")).unwrap().modified().unwrap();
    let mode = fs::metadata(tree.join("touched")).unwrap().permissions();
    fs::set_permissions(tree.join("touched"), mode).unwrap();
    fs::write(tree.join("written"), "WRITTEN").unwrap();
    fs::File::open(tree.join("written")).unwrap().set_modified(modified).unwrap();
    let known = Known {
        index: &index,
        snapshot: &base,
        trusted_before,
        trust: Trust::Contents,
        begun: false,
    };
    assert_eq!(snap(&tree, &to, &known).linked, 2);
    assert_same(&tree, &to);
    let inode = |dir: &Path, name: &str| fs::metadata(dir.join(name)).unwrap().ino();
    for (name, same) in [("kept", true), ("touched", true), ("written", false)] {
        assert_eq!(inode(&base, name) == inode(&to, name), same, "{name}");
    }
}

/// What the newest ctime does not exclude is compared, although its stat is what it was.
#[test]
fn a_change_in_the_same_tick_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, base, to) = (dir.path().join("tree"), dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&base).unwrap();
    fs::write(base.join("racy"), "before").unwrap();
    copy_tree(&base, &tree, &Options::default()).unwrap();
    // As if the clock had stood still: the index is taken after the change.
    let modified = fs::metadata(tree.join("racy")).unwrap().modified().unwrap();
    fs::write(tree.join("racy"), "after!").unwrap();
    fs::File::open(tree.join("racy")).unwrap().set_modified(modified).unwrap();
    let index = stored(dir.path(), &index_tree(&tree, &base).unwrap());
    let newest = index.summary.newest;
    let blind = Known {
        index: &index,
        snapshot: &base,
        trusted_before: ALL_TRUSTED,
        trust: Trust::Contents,
        begun: false,
    };
    assert_eq!(snap(&tree, &dir.path().join("wrong"), &blind).linked, 1, "the test tests nothing");
    snap(&tree, &to, &Known { trusted_before: newest, ..blind });
    assert_same(&tree, &to);
}

/// Two files that were one, and are the same to the last byte, stay two.
#[test]
fn what_a_step_parted_is_not_joined_again() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, base, to) = (dir.path().join("tree"), dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&base).unwrap();
    fs::write(base.join("one"), "text").unwrap();
    fs::hard_link(base.join("one"), base.join("two")).unwrap();
    copy_tree(&base, &tree, &Options::default()).unwrap();
    let index = stored(dir.path(), &index_tree(&tree, &base).unwrap());
    let trusted_before = pass(dir.path(), index.summary.newest);
    let modified = fs::metadata(tree.join("two")).unwrap().modified().unwrap();
    fs::remove_file(tree.join("two")).unwrap();
    fs::write(tree.join("two"), "text").unwrap();
    fs::File::open(tree.join("two")).unwrap().set_modified(modified).unwrap();
    let known = Known {
        index: &index,
        snapshot: &base,
        trusted_before,
        trust: Trust::Contents,
        begun: false,
    };
    assert_eq!(snap(&tree, &to, &known).linked, 1);
    assert_same(&tree, &to);
}

#[test]
fn an_index_is_proved_against_both_trees() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, snapshot, mut index) = begin(dir.path(), 3);
    let check = |index: &Index| check_index(index, &tree, &snapshot).unwrap();
    assert_eq!(check(&index), None);
    pass(dir.path(), index.summary.newest);
    mutate(&tree, 30, &mut Random::new(3)).unwrap();
    assert_ne!(check(&index), None);
    let to = dir.path().join("1");
    let known = Known {
        index: &index,
        snapshot: &snapshot,
        trusted_before: index.summary.newest,
        trust: Trust::Contents,
        begun: false,
    };
    index = stored(dir.path(), &snap(&tree, &to, &known).draft);
    assert_eq!(check_index(&index, &tree, &to).unwrap(), None);
    let file = shape(&to).0.into_keys().find(|path| to.join(path).is_file()).unwrap();
    fs::copy(to.join(&file), dir.path().join("other")).unwrap();
    fs::rename(dir.path().join("other"), to.join(&file)).unwrap();
    let found = check_index(&index, &tree, &to).unwrap();
    assert_eq!(found, Some(tree.join(file)), "the twin is another");
}

#[test]
fn a_damaged_index_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    assert!(Index::read(&path).unwrap().is_none() && Summary::read(&path).unwrap().is_none());
    begin(dir.path(), 1);
    let whole = fs::read(&path).unwrap();
    let random = &mut Random::new(7);
    for round in 0..600 {
        let mut bytes = whole.clone();
        let at = random.below(bytes.len() as u64) as usize;
        match round % 3 {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            _ => bytes[at..].fill(0),
        }
        fs::write(&path, &bytes).unwrap();
        let damaged = matches!(Index::read(&path), Err(Error::Damaged(_)));
        assert!(damaged || bytes == whole, "round {round} at {at}");
        assert!(at >= 68 || round % 3 == 2 || Summary::read(&path).is_err());
    }
}
