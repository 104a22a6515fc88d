//! Kills, full disks, other processes, and stores that cannot be opened.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use bstr::BStr;
use obuilder_core::Store;
use obuilder_core::contracts::Base;
use obuilder_core::error::StoreError;
use obuilder_core::store_trouble;
use store_rsync::{Mode, RsyncStore};

use common::{ext4, id, leftovers, open, plain};

/// Waits until the background has emptied what was deleted.
fn eventually_empty(dir: &Path) {
    let start = Instant::now();
    while !leftovers(dir).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "left: {:?}", leftovers(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}

store_trouble!(kept_by_copying, plain, || ext4(40), open_copying, names_of_leftovers);

fn open_copying(dir: &Path) -> Box<dyn Store> {
    Box::new(open(dir, Mode::Copy))
}

fn names_of_leftovers(dir: &Path) -> Vec<String> {
    leftovers(dir).iter().map(|path| path.display().to_string()).collect()
}

fn make(store: &RsyncStore, name: &str) {
    let pending = store.begin(&id(name), Base::Empty).unwrap();
    fs::write(pending.dir().join("rootfs/file"), name).unwrap();
    pending.commit().unwrap();
}

#[test]
fn leftovers_of_an_earlier_process_of_the_same_number_do_not_stop_the_sweep() {
    let place = plain().unwrap();
    let dir = place.as_ref();
    let store = open(dir, Mode::Copy);
    for number in 0..4 {
        let name = format!("trash-{}-{number}/full", std::process::id());
        fs::create_dir_all(dir.join("store/result-tmp").join(name)).unwrap();
    }
    fs::create_dir_all(dir.join("store/result-tmp/dead/rootfs")).unwrap();
    assert_eq!(store.reconcile(&[]).unwrap().swept.len(), 5);
    eventually_empty(dir);
}

#[test]
fn what_cannot_be_swept_does_not_keep_the_rest() {
    let place = plain().unwrap();
    let dir = place.as_ref();
    let store = open(dir, Mode::Copy);
    let stuck = dir.join("store/result-tmp/a-stuck");
    for name in ["0-dead", "a-stuck", "z-dead"] {
        fs::create_dir(dir.join("store/result-tmp").join(name)).unwrap();
    }
    let Some(_stuck) = common::Stuck::new(&stuck) else { return };
    fs::write(dir.join("store/cache-tmp/file"), "").unwrap();
    let mut swept = store.reconcile(&[]).unwrap().swept;
    swept.sort_unstable();
    let ends = ["cache-tmp/file", "result-tmp/0-dead", "result-tmp/z-dead"];
    assert!(swept.iter().zip(ends).all(|(path, end)| path.ends_with(end)), "{swept:?}");
    assert_eq!(swept.len(), 3);
    assert!(stuck.exists());
}

#[test]
fn a_full_disk_is_said_and_the_store_stays_usable() {
    let Some(place) = ext4(64) else { return };
    let dir = place.as_ref();
    let store = open(dir, Mode::Copy);
    let pending = store.begin(&id("a"), Base::Empty).unwrap();
    fs::write(pending.dir().join("rootfs/big"), vec![7; 14 << 20]).unwrap();
    pending.commit().unwrap();
    // What was deleted is freed in the background, so the disk is filled by what stays.
    let filler = dir.join("filler");
    let room = usize::try_from(store.usage().unwrap().free).unwrap();
    fs::write(&filler, vec![7; room.saturating_sub(8 << 20)]).unwrap();
    match store.begin(&id("b"), Base::Result(&id("a"))) {
        Err(StoreError::Full { action, .. }) => assert!(action.contains("rootfs/big"), "{action}"),
        Err(other) => panic!("not `Full` but: {other}"),
        Ok(_) => panic!("the copy found room"),
    }
    eventually_empty(dir);
    assert!(store.result(&id("a")).unwrap().is_some());
    fs::remove_file(filler).unwrap();
    store.begin(&id("b"), Base::Result(&id("a"))).unwrap().commit().unwrap();
}

#[test]
fn hard_links_share_only_among_results() {
    let place = plain().unwrap();
    let store = open(place.as_ref(), Mode::Hardlink);
    make(&store, "a");
    let next = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
    fs::write(next.dir().join("rootfs/new"), "x").unwrap();
    next.commit().unwrap();
    let inode = |name: &str| {
        let result = store.result(&id(name)).unwrap().unwrap();
        fs::metadata(result.rootfs().join("file")).unwrap().ino()
    };
    assert_eq!(inode("a"), inode("b"));
    let writable = store.begin(&id("c"), Base::Result(&id("b"))).unwrap();
    let meta = fs::metadata(writable.dir().join("rootfs/file")).unwrap();
    assert_eq!(meta.nlink(), 1);
    assert_ne!(meta.ino(), inode("a"));
}

#[test]
fn what_obuilder_left_is_used() {
    let place = plain().unwrap();
    let root = place.as_ref().join("store");
    let result = root.join("result").join(id("a").as_str());
    fs::create_dir_all(result.join("rootfs")).unwrap();
    fs::create_dir_all(root.join("cache/opam")).unwrap();
    fs::write(root.join("cache/opam/file"), "theirs").unwrap();
    fs::create_dir_all(root.join("result-tmp/0-unfinished")).unwrap();
    let store = open(place.as_ref(), Mode::Auto);
    assert!(store.result(&id("a")).unwrap().is_some());
    let lease = store.cache(BStr::new("opam")).unwrap();
    assert_eq!(fs::read_to_string(lease.dir().join("file")).unwrap(), "theirs");
    assert!(lease.release().unwrap());
    assert_eq!(store.reconcile(&[]).unwrap().swept.len(), 1);
}

#[test]
fn the_store_is_private_but_lets_build_users_through() {
    let place = plain().unwrap();
    let root = place.as_ref().join("deep/store");
    let store = RsyncStore::open(&root, Mode::Auto).unwrap();
    assert_ne!(store.mode(), Mode::Auto);
    let mode = |name: &str| fs::metadata(root.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode(""), 0o711);
    for name in ["state", "result", "result-tmp", "cache", "cache-tmp"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    assert_eq!(store.location(), format!("rsync:{}", fs::canonicalize(&root).unwrap().display()));
}

#[test]
fn a_store_that_was_open_to_others_is_closed() {
    let place = plain().unwrap();
    let root = place.as_ref().join("store");
    let names = ["state", "result", "result-tmp", "failed", "cache", "cache-tmp"];
    for name in names {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(0o3775)).unwrap();
    }
    fs::create_dir(root.join("home")).unwrap();
    fs::set_permissions(root.join("home"), Permissions::from_mode(0o755)).unwrap();
    let set = |mode| fs::set_permissions(&root, Permissions::from_mode(mode)).unwrap();
    let mode = |name: &str| fs::metadata(root.join(name)).unwrap().mode() & 0o7777;
    for (before, after) in [(0o755, 0o711), (0o700, 0o700), (0o1777, 0o1777)] {
        set(before);
        let _ = fs::remove_file(root.join("state/obuild-format"));
        open(place.as_ref(), Mode::Copy);
        assert_eq!(mode(""), after);
    }
    for name in names {
        assert_eq!(mode(name) & 0o777, 0o700, "{name}");
    }
    assert_eq!(mode("home"), 0o755, "not the store's own");
}

#[test]
fn a_directory_that_is_no_store_yet_and_ones_of_others_keep_their_mode() {
    let place = plain().unwrap();
    let root = place.as_ref().join("store");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    open(place.as_ref(), Mode::Copy);
    open(place.as_ref(), Mode::Copy);
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o755);
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can give directories away");
        return;
    }
    std::os::unix::fs::chown(root.join("cache"), Some(54_321), None).unwrap();
    fs::set_permissions(root.join("cache"), Permissions::from_mode(0o755)).unwrap();
    open(place.as_ref(), Mode::Copy);
    assert_eq!(fs::metadata(root.join("cache")).unwrap().mode() & 0o7777, 0o755);
}

/// The error of opening, with its cause.
fn refusal(root: &Path) -> String {
    let error = RsyncStore::open(root, Mode::Auto).err().expect("it must not open");
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}").replace(root.to_str().unwrap(), "ROOT")
}

#[test]
fn what_is_no_store_is_refused_with_the_reason() {
    let place = plain().unwrap();
    let dir = place.as_ref();
    fs::write(dir.join("file"), "").unwrap();
    assert_eq!(refusal(&dir.join("file")), "failed to open the store at `ROOT`: not a directory");
    let below = dir.join("file/below");
    assert_eq!(refusal(&below), "failed to open the store at `ROOT`: not a directory");
    let newer = dir.join("newer");
    fs::create_dir_all(newer.join("state")).unwrap();
    fs::write(newer.join("state/obuild-format"), "7\n").unwrap();
    let error = RsyncStore::open(&newer, Mode::Auto).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 1, .. }), "{error}");
    fs::write(newer.join("state/obuild-format"), "what\n").unwrap();
    assert!(refusal(&newer).starts_with("failed to read the store's format"));
}

#[test]
fn a_directory_of_other_things_is_no_store_and_keeps_them() {
    let place = plain().unwrap();
    let root = place.as_ref().join("root");
    fs::create_dir_all(root.join("cache-tmp/of somebody else")).unwrap();
    for harmless in ["lost+found", "home", "home.stuck-1"] {
        fs::create_dir(root.join(harmless)).unwrap();
    }
    fs::write(root.join("letter"), "dear").unwrap();
    let mode = fs::metadata(&root).unwrap().permissions();
    assert_eq!(
        refusal(&root),
        "there is no store at `rsync:ROOT`, but other things, such as `letter`"
    );
    assert_eq!(fs::metadata(&root).unwrap().permissions(), mode);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 5);
    // What OBuilder has made is a store, whatever else somebody put into it.
    for name in ["state", "result", "result-tmp", "cache"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    RsyncStore::open(&root, Mode::Auto).unwrap();
    RsyncStore::open(&root, Mode::Auto).unwrap();
    assert_eq!(fs::read_to_string(root.join("letter")).unwrap(), "dear");
}

#[test]
fn a_store_that_may_not_be_written_is_refused() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIP: root may write everywhere");
        return;
    }
    let place = plain().unwrap();
    let locked = place.as_ref().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
    for root in [locked.clone(), locked.join("store")] {
        let error = RsyncStore::open(&root, Mode::Auto).err().unwrap();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    }
    fs::set_permissions(&locked, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn reflinks_are_never_pretended() {
    let place = plain().unwrap();
    let found = open(place.as_ref(), Mode::Auto).mode();
    let asked = RsyncStore::open(&place.as_ref().join("store"), Mode::Reflink);
    match found {
        Mode::Reflink => assert!(asked.is_ok()),
        _ => assert!(asked.err().unwrap().to_string().starts_with("failed to clone")),
    }
}
