//! What every [`Store`] must do, as checks to run on the real filesystem it is for.
//!
//! [`store_conformance!`](crate::store_conformance) makes one test of each.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use bstr::BStr;

use crate::contracts::{Base, Snapshot, Store};
use crate::error::StoreError;
use crate::id::ResultId;

/// Opens the store in a directory; called again on the same directory it opens what is there.
pub type Open<'a> = &'a dyn Fn(&Path) -> Box<dyn Store>;

/// Makes a test of each check, in a module for the store.
///
/// `place` gives a new, empty directory on the right filesystem (anything that derefs to a path with `AsRef<Path>` and
/// cleans up when dropped), or `None` after saying visibly why there is none; `open` opens a store in it.
///
/// ```ignore
/// store_conformance!(ext4, || tempfile::tempdir().ok(), |dir| Box::new(MyStore::open(dir)));
/// ```
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $place:expr, $open:expr) => {
        $crate::store_conformance!(
            @each $name, $place, $open,
            commit_makes_a_whole_result_visible
            nothing_is_visible_before_commit
            a_result_is_the_base_of_the_next
            a_writable_tree_shares_nothing_with_a_result
            the_first_commit_stands
            commits_of_one_id_at_once_leave_one_result
            dropping_and_discarding_leave_nothing
            a_tree_without_rootfs_is_no_result
            an_unknown_base_is_missing
            a_pinned_result_is_not_deleted
            a_held_result_is_not_deleted
            deleting_says_whether_there_was_anything
            begins_and_deletes_may_run_at_once
            the_last_kept_tree_stands
            results_survive_reopening
            reconcile_sweeps_the_dead_and_spares_the_living
            reconcile_finds_drift
            sizes_and_usage_make_sense
            caches_go_from_one_lease_to_the_next
            the_first_release_of_a_cache_wins
            a_dropped_lease_changes_nothing
            a_lease_may_be_renamed_away_and_back
            cache_names_may_be_any_bytes
            deleting_a_cache_disturbs_no_lease
        );
    };
    (@each $name:ident, $place:expr, $open:expr, $($check:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[test]
                fn $check() {
                    if let Some(place) = ($place)() {
                        let dir: &::std::path::Path = ::std::convert::AsRef::as_ref(&place);
                        $crate::testing::store::$check(&$open, dir);
                    }
                }
            )*
        }
    };
}

fn id(text: &str) -> ResultId {
    ResultId::of(text.as_bytes())
}

fn at(dir: &Path, name: &str) -> std::path::PathBuf {
    dir.join("rootfs").join(name)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// Makes the result `name` on `base`, with a file of that name holding its name.
fn make(store: &dyn Store, name: &str, base: Base<'_>) {
    let pending = store.begin(&id(name), base).unwrap();
    fs::write(at(pending.dir(), name), name).unwrap();
    fs::write(pending.dir().join("log"), format!("log of {name}")).unwrap();
    pending.commit().unwrap();
}

fn result(store: &dyn Store, name: &str) -> Snapshot {
    store.result(&id(name)).unwrap().expect("the result is there")
}

/// A committed result holds its tree, log and environment.
pub fn commit_makes_a_whole_result_visible(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    assert_eq!(fs::metadata(pending.dir().join("rootfs")).unwrap().mode() & 0o7777, 0o755);
    fs::write(at(pending.dir(), "file"), "contents").unwrap();
    fs::write(pending.dir().join("log"), "log").unwrap();
    fs::write(pending.dir().join("env"), "((env ()))").unwrap();
    pending.commit().unwrap();
    let made = result(&*store, "a");
    assert_eq!(made.id(), &id("a"));
    assert_eq!(read(made.rootfs().join("file")), "contents");
    assert_eq!((read(made.log()), read(made.env())), ("log".into(), "((env ()))".into()));
    assert_eq!(store.results().unwrap(), [id("a")]);
    assert!(store.kept(&id("a")).unwrap().is_none());
}

/// A result being made cannot be found.
pub fn nothing_is_visible_before_commit(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    assert!(store.result(&id("a")).unwrap().is_none());
    assert!(store.results().unwrap().is_empty());
    assert!(!store.delete(&id("a")).unwrap());
    assert!(pending.dir().join("rootfs").exists());
    pending.discard().unwrap();
}

/// A new tree is a copy of its base: contents, links, modes and times.
pub fn a_result_is_the_base_of_the_next(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    fs::create_dir(at(pending.dir(), "sub")).unwrap();
    fs::write(at(pending.dir(), "sub/file"), "contents").unwrap();
    fs::set_permissions(at(pending.dir(), "sub/file"), Permissions::from_mode(0o751)).unwrap();
    symlink("nowhere", at(pending.dir(), "link")).unwrap();
    fs::hard_link(at(pending.dir(), "sub/file"), at(pending.dir(), "twin")).unwrap();
    pending.commit().unwrap();
    let base = result(&*store, "a");
    let next = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
    let (old, new) = (base.rootfs().join("sub/file"), at(next.dir(), "sub/file"));
    assert_eq!(read(&new), "contents");
    let (old, meta) = (fs::metadata(old).unwrap(), fs::metadata(&new).unwrap());
    assert_eq!((meta.mode(), meta.mtime_nsec()), (old.mode(), old.mtime_nsec()));
    assert_eq!(fs::read_link(at(next.dir(), "link")).unwrap(), Path::new("nowhere"));
    assert_eq!(fs::metadata(at(next.dir(), "twin")).unwrap().ino(), meta.ino());
    assert!(!next.dir().join("log").exists(), "the base's log is not the new one's");
    next.commit().unwrap();
}

/// Whatever is done to a tree that is being made, results stay as they are, also those that share files.
pub fn a_writable_tree_shares_nothing_with_a_result(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    make(&*store, "a", Base::Empty);
    make(&*store, "b", Base::Result(&id("a")));
    let pending = store.begin(&id("c"), Base::Result(&id("b"))).unwrap();
    for name in ["a", "b"] {
        let file = at(pending.dir(), name);
        fs::write(&file, "overwritten in place").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
    pending.commit().unwrap();
    for name in ["a", "b"] {
        assert_eq!(read(result(&*store, "b").rootfs().join(name)), name);
    }
    assert_eq!(read(result(&*store, "a").rootfs().join("a")), "a");
}

/// A second commit of the same id succeeds and changes nothing.
pub fn the_first_commit_stands(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let late = store.begin(&id("a"), Base::Empty).unwrap();
    make(&*store, "a", Base::Empty);
    fs::write(at(late.dir(), "late"), "").unwrap();
    late.commit().unwrap();
    assert!(!result(&*store, "a").rootfs().join("late").exists());
    assert_eq!(store.results().unwrap().len(), 1);
}

/// Racing commits of one id all succeed and leave one whole result.
pub fn commits_of_one_id_at_once_leave_one_result(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for number in 0..8 {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                let pending = store.begin(&id("a"), Base::Empty).unwrap();
                fs::write(at(pending.dir(), "1"), number.to_string()).unwrap();
                fs::write(at(pending.dir(), "2"), number.to_string()).unwrap();
                start.wait();
                pending.commit().unwrap();
            });
        }
    });
    let made = result(&*store, "a");
    assert_eq!(read(made.rootfs().join("1")), read(made.rootfs().join("2")));
}

/// Neither a dropped nor a discarded tree is ever found.
pub fn dropping_and_discarding_leave_nothing(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    let gone = pending.dir().to_owned();
    pending.discard().unwrap();
    assert!(!gone.exists());
    drop(store.begin(&id("a"), Base::Empty).unwrap());
    assert!(store.results().unwrap().is_empty());
    assert!(store.result(&id("a")).unwrap().is_none());
}

/// A tree whose `rootfs` has gone cannot be committed.
pub fn a_tree_without_rootfs_is_no_result(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    match fs::remove_dir(pending.dir().join("rootfs")) {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            eprintln!("SKIP: `rootfs` is a volume of its own here, which nobody can take away");
            return;
        }
        removed => removed.unwrap(),
    }
    pending.commit().unwrap_err();
    assert!(store.result(&id("a")).unwrap().is_none());
}

/// A base that is not there is [`StoreError::Missing`].
pub fn an_unknown_base_is_missing(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    for base in [Base::Result(&id("a")), Base::Kept(&id("a"))] {
        match store.begin(&id("b"), base) {
            Err(StoreError::Missing(missing)) => assert_eq!(missing, id("a")),
            Err(other) => panic!("not `Missing` but: {other}"),
            Ok(_) => panic!("a tree on a base that is not there"),
        }
    }
}

/// A pin holds off deletion, in this store and in another on the same directory.
pub fn a_pinned_result_is_not_deleted(open: Open<'_>, dir: &Path) {
    let (store, other) = (open(dir), open(dir));
    make(&*store, "a", Base::Empty);
    let (pin, second) = (result(&*store, "a"), result(&*other, "a"));
    for store in [&store, &other] {
        assert!(matches!(store.delete(&id("a")), Err(StoreError::InUse(_))));
    }
    drop(pin);
    assert!(matches!(store.delete(&id("a")), Err(StoreError::InUse(_))));
    assert_eq!(read(second.rootfs().join("a")), "a");
    drop(second);
    assert!(store.delete(&id("a")).unwrap());
    assert!(other.result(&id("a")).unwrap().is_none());
}

/// So does a result that is held, which is there when it is looked into.
pub fn a_held_result_is_not_deleted(open: Open<'_>, dir: &Path) {
    let (store, other) = (open(dir), open(dir));
    assert!(store.held_result(&id("a")).unwrap().is_none());
    make(&*store, "a", Base::Empty);
    let held = [&store, &other].map(|store| store.held_result(&id("a")).unwrap().unwrap());
    for store in [&store, &other] {
        assert!(matches!(store.delete(&id("a")), Err(StoreError::InUse(_))));
    }
    // Whoever has it shown first makes no difference to the others.
    drop(result(&*store, "a"));
    for held in held {
        assert_eq!(read(held.rootfs().join("a")), "a");
    }
    assert!(other.delete(&id("a")).unwrap());
    assert!(store.held_result(&id("a")).unwrap().is_none());
    assert!(other.held_result(&id("a")).unwrap().is_none());
}

/// Deleting takes the result and the kept tree, and the id may be made anew.
pub fn deleting_says_whether_there_was_anything(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    assert!(!store.delete(&id("a")).unwrap());
    make(&*store, "a", Base::Empty);
    store.begin(&id("a"), Base::Empty).unwrap().keep().unwrap();
    assert!(store.delete(&id("a")).unwrap());
    assert!(store.result(&id("a")).unwrap().is_none() && store.kept(&id("a")).unwrap().is_none());
    assert!(!store.delete(&id("a")).unwrap());
    make(&*store, "a", Base::Empty);
    assert_eq!(read(result(&*store, "a").rootfs().join("a")), "a");
}

/// A copy is of a whole base or fails cleanly, however its base is deleted and remade meanwhile.
pub fn begins_and_deletes_may_run_at_once(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    thread::scope(|scope| {
        for number in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..20 {
                    let name = format!("{number}-{round}");
                    match store.begin(&id(&name), Base::Result(&id("base"))) {
                        Ok(pending) => {
                            assert_eq!(read(at(pending.dir(), "base")), "base");
                            pending.discard().unwrap();
                        }
                        Err(StoreError::Missing(_)) => make(&**store, "base", Base::Empty),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                match store.delete(&id("base")) {
                    Ok(_) | Err(StoreError::InUse(_)) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
        });
    });
}

/// A failed tree is kept with its log until the next one of its id, is no result, and can be built on.
pub fn the_last_kept_tree_stands(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    for round in ["first", "second"] {
        let pending = store.begin(&id("a"), Base::Empty).unwrap();
        fs::write(at(pending.dir(), "round"), round).unwrap();
        fs::write(pending.dir().join("log"), round).unwrap();
        pending.keep().unwrap();
    }
    assert!(store.result(&id("a")).unwrap().is_none() && store.results().unwrap().is_empty());
    assert_eq!(store.kept_ids().unwrap(), [id("a")]);
    let kept = store.kept(&id("a")).unwrap().unwrap();
    assert_eq!(
        (read(kept.rootfs().join("round")), read(kept.log())),
        ("second".into(), "second".into())
    );
    assert!(matches!(store.delete(&id("a")), Err(StoreError::InUse(_))));
    let copy = store.begin(&id("b"), Base::Kept(&id("a"))).unwrap();
    assert_eq!(read(at(copy.dir(), "round")), "second");
    copy.discard().unwrap();
    drop(kept);
    make(&*store, "a", Base::Empty);
    assert!(store.kept(&id("a")).unwrap().is_none(), "a result makes the failure pointless");
}

/// What was committed is there when the store is opened again.
pub fn results_survive_reopening(open: Open<'_>, dir: &Path) {
    make(&*open(dir), "a", Base::Empty);
    let store = open(dir);
    assert!(store.state_dir().is_dir());
    assert!(!store.location().is_empty());
    assert_eq!(read(result(&*store, "a").rootfs().join("a")), "a");
}

/// Trees and leases in the hands of another open store are left alone.
pub fn reconcile_sweeps_the_dead_and_spares_the_living(open: Open<'_>, dir: &Path) {
    let (store, other) = (open(dir), open(dir));
    make(&*store, "a", Base::Empty);
    let pending = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
    let lease = store.cache(BStr::new("cache")).unwrap();
    fs::write(lease.dir().join("file"), "x").unwrap();
    let found = other.reconcile(&[id("a")]).unwrap();
    assert_eq!(found.unknown, []);
    assert_eq!(found.missing, []);
    assert_eq!(read(at(pending.dir(), "a")), "a");
    pending.commit().unwrap();
    assert!(lease.release().unwrap());
    assert!(other.result(&id("b")).unwrap().is_some());
}

/// The difference between the store and the index is found in both directions.
pub fn reconcile_finds_drift(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    make(&*store, "a", Base::Empty);
    make(&*store, "b", Base::Empty);
    let found = store.reconcile(&[id("b"), id("c")]).unwrap();
    assert_eq!((found.unknown, found.missing), (vec![id("a")], vec![id("c")]));
    assert!(store.result(&id("a")).unwrap().is_some(), "what is unknown is for others to judge");
}

/// Sizes grow with what is stored; the volume has room.
pub fn sizes_and_usage_make_sense(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    assert_eq!(store.size(&id("a")).unwrap(), 0);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    fs::write(at(pending.dir(), "big"), vec![7; 3_000_000]).unwrap();
    pending.commit().unwrap();
    let size = store.size(&id("a")).unwrap();
    assert!((2_900_000..4_000_000).contains(&size), "{size}");
    let usage = store.usage().unwrap();
    assert!(usage.free > 0 && usage.free <= usage.total && usage.free_inodes > 0);
}

/// Fills a lease with one file and releases it.
fn release(store: &dyn Store, name: &str, text: &str) -> bool {
    let lease = store.cache(BStr::new(name)).unwrap();
    fs::write(lease.dir().join("file"), text).unwrap();
    lease.release().unwrap()
}

fn cached(store: &dyn Store, name: &str) -> Option<String> {
    fs::read_to_string(store.cache(BStr::new(name)).unwrap().dir().join("file")).ok()
}

/// The next lease holds what the last one left, as its own copy.
pub fn caches_go_from_one_lease_to_the_next(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    assert_eq!(cached(&*store, "c"), None);
    assert!(release(&*store, "c", "one"));
    assert!(release(&*store, "c", "two"));
    assert_eq!(cached(&*open(dir), "c").as_deref(), Some("two"));
    assert_eq!(cached(&*store, "other"), None);
}

/// Of leases that began from one version, the first released is kept and the others are thrown away.
pub fn the_first_release_of_a_cache_wins(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    for round in ["without a version before", "with one"] {
        let (first, second) =
            (store.cache(BStr::new("c")).unwrap(), store.cache(BStr::new("c")).unwrap());
        assert_ne!(first.dir(), second.dir());
        fs::write(first.dir().join("file"), format!("second, {round}")).unwrap();
        fs::write(second.dir().join("file"), round).unwrap();
        assert!(second.release().unwrap());
        assert!(!first.release().unwrap());
        assert_eq!(cached(&*store, "c").as_deref(), Some(round));
    }
    // However many versions there were since, and whatever they were: it is not the one it began from.
    let stale = store.cache(BStr::new("c")).unwrap();
    for round in 0..20 {
        assert!(release(&*store, "c", &round.to_string()));
    }
    assert!(!stale.release().unwrap());
}

/// A lease that is dropped is thrown away.
pub fn a_dropped_lease_changes_nothing(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    assert!(release(&*store, "c", "one"));
    let lease = store.cache(BStr::new("c")).unwrap();
    fs::write(lease.dir().join("file"), "two").unwrap();
    drop(lease);
    assert_eq!(cached(&*store, "c").as_deref(), Some("one"));
}

/// The copy may be elsewhere for a while.
pub fn a_lease_may_be_renamed_away_and_back(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let lease = store.cache(BStr::new("c")).unwrap();
    let away = dir.join("away");
    store.carry().away(lease.dir(), &away).unwrap();
    fs::write(away.join("file"), "x").unwrap();
    open(dir).reconcile(&[]).unwrap();
    store.carry().home(&away, lease.dir()).unwrap();
    assert!(lease.release().unwrap());
    assert_eq!(cached(&*store, "c").as_deref(), Some("x"));
}

/// Names are bytes: none of them leads out of the store or meets another.
pub fn cache_names_may_be_any_bytes(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    let names: [&[u8]; 9] =
        [b".", b"..", b"../x", b"a/b", b"a%2fb", b"\xff\xfe", b"new\nline", b"A", b"a b"];
    for name in names {
        let lease = store.cache(BStr::new(name)).unwrap();
        fs::write(lease.dir().join("file"), name).unwrap();
        assert!(lease.release().unwrap());
    }
    let mut all: Vec<_> = store.caches().unwrap().into_iter().map(|(name, _)| name).collect();
    all.sort();
    let mut expected = names.map(|name| BStr::new(name).to_owned());
    expected.sort();
    assert_eq!(all, expected);
    for name in names {
        let lease = store.cache(BStr::new(name)).unwrap();
        assert_eq!(fs::read(lease.dir().join("file")).unwrap(), name);
    }
    assert!(store.cache(BStr::new("")).is_err());
}

/// After a deletion the next lease is empty; one that is out is thrown away when released.
pub fn deleting_a_cache_disturbs_no_lease(open: Open<'_>, dir: &Path) {
    let store = open(dir);
    assert!(!store.delete_cache(BStr::new("c")).unwrap());
    assert!(release(&*store, "c", "one"));
    let lease = store.cache(BStr::new("c")).unwrap();
    assert!(store.delete_cache(BStr::new("c")).unwrap());
    assert_eq!(cached(&*store, "c"), None);
    assert_eq!(read(lease.dir().join("file")), "one");
    assert!(!lease.release().unwrap());
    assert_eq!(store.caches().unwrap(), []);
}
