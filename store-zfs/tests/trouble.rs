//! Kills, other processes, full pools, what OBuilder left, and what must not pile up; on real ZFS and on the stand-in.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bstr::BStr;
use obuilder_core::contracts::{Base, Held};
use obuilder_core::error::{FetchError, StoreError};
use obuilder_core::finding::{Finding, Repair};
use obuilder_core::store_trouble;
use obuilder_core::{BuildLog, Cancel, Fetcher, Store};
use store_zfs::{ZfsFetcher, ZfsStore};

use common::{
    BOUND, TestPool, id, leftovers, open, real, small_real, small_stand_in, stand_in, unfinished,
};

store_trouble!(zfs, real, small_real, open_boxed, unfinished, rounds = 4);
store_trouble!(zfs_by_command, real, small_real, open_by_command, unfinished, rounds = 4);
store_trouble!(
    stand_in_by_command,
    stand_in,
    small_stand_in,
    open_by_command,
    unfinished,
    rounds = 4
);

fn open_boxed(dir: &Path) -> Box<dyn Store> {
    Box::new(open(dir))
}

fn open_by_command(dir: &Path) -> Box<dyn Store> {
    Box::new(common::open_by_command(dir))
}

/// Waits until the background has destroyed what was deleted.
fn eventually_empty(pool: &TestPool) {
    let begun = Instant::now();
    while !leftovers(pool.as_ref()).is_empty() {
        assert!(begun.elapsed() < BOUND, "left: {:?}", leftovers(pool.as_ref()));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_on(store: &ZfsStore, name: &str, base: Base<'_>) {
    let pending = store.begin(&id(name), base).unwrap();
    fs::write(pending.dir().join("rootfs/file"), name).unwrap();
    pending.commit().unwrap();
}

fn file_of(store: &ZfsStore, name: &str) -> String {
    let result = store.result(&id(name)).unwrap().unwrap();
    fs::read_to_string(result.rootfs().join("file")).unwrap()
}

fn replaced_versions_of_a_cache_do_not_pile_up(pool: &TestPool) {
    let store = open(pool.as_ref());
    let release = |text: &str| {
        let lease = store.cache(BStr::new("c")).unwrap();
        fs::write(lease.dir().join(text), text).unwrap();
        assert!(lease.release().unwrap());
    };
    release("1");
    let old = store.cache(BStr::new("c")).unwrap();
    ["2", "3", "4"].into_iter().for_each(release);
    assert_eq!(fs::read_to_string(old.dir().join("1")).unwrap(), "1", "it is a clone of the first");
    assert!(!old.release().unwrap());
    eventually_empty(pool);
    let start = Instant::now();
    while pool.names("/cache").len() > 2 {
        assert!(start.elapsed() < BOUND, "{:?}", pool.names("/cache"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let newest = store.cache(BStr::new("c")).unwrap();
    assert!(["1", "2", "3", "4"].iter().all(|name| newest.dir().join(name).exists()));
}

fn a_deleted_base_goes_when_nothing_stands_on_it(pool: &TestPool) {
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    make_on(&store, "b", Base::Result(&id("a")));
    assert!(store.delete(&id("a")).unwrap());
    assert!(store.result(&id("a")).unwrap().is_none());
    assert_eq!(file_of(&store, "b"), "b");
    make_on(&store, "a", Base::Empty);
    assert_eq!(file_of(&store, "a"), "a");
    assert!(store.delete(&id("b")).unwrap());
    eventually_empty(pool);
}

/// A kept tree is a clone of the result that its step began on.
fn what_a_kept_tree_stands_on_frees_nothing(pool: &TestPool) {
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    make_on(&store, "b", Base::Result(&id("a")));
    assert_eq!(store.held().unwrap(), Held::default(), "results are known to stand on results");
    let running = store.begin(&id("running"), Base::Result(&id("b"))).unwrap();
    store.begin(&id("bad"), Base::Result(&id("a"))).unwrap().keep().unwrap();
    let held = store.held().unwrap();
    let by = [(id("a"), vec![Some(id("bad"))]), (id("b"), vec![None])];
    assert_eq!(held, Held { by: by.into_iter().collect(), waiting: Vec::new() });
    assert_eq!(held.besides(&[&id("bad")]), [&id("b")]);
    running.discard().unwrap();
    assert!(store.delete(&id("b")).unwrap() && store.delete(&id("a")).unwrap());
    let begun = Instant::now();
    while leftovers(pool.as_ref()).len() > 1 {
        assert!(begun.elapsed() < BOUND, "left: {:?}", leftovers(pool.as_ref()));
        std::thread::sleep(Duration::from_millis(5));
    }
    let held = store.held().unwrap();
    assert!(held.by.is_empty() && held.waiting_besides(&[]) > 0, "{held:?}");
    assert_eq!(held.waiting_besides(&[&id("bad")]), 0, "it goes with the kept tree");
    assert!(store.delete(&id("bad")).unwrap());
    eventually_empty(pool);
    assert_eq!(store.held().unwrap(), Held::default());
}

fn what_obuilder_left_is_used(pool: &TestPool) {
    for group in ["state", "result", "cache", "cache-tmp"] {
        pool.zfs(&format!("create POOL/{group}"));
    }
    let (whole, half) = (id("whole"), id("half"));
    for result in [&whole, &half] {
        pool.zfs(&format!("create -o canmount=noauto POOL/result/{result}"));
        pool.zfs(&format!("mount POOL/result/{result}"));
        fs::create_dir(pool.as_ref().join(format!("result/{result}/rootfs"))).unwrap();
        fs::write(pool.as_ref().join(format!("result/{result}/rootfs/file")), "theirs").unwrap();
    }
    pool.zfs(&format!("snapshot -r POOL/result/{whole}@snap"));
    pool.zfs(&format!("unmount POOL/result/{whole}"));
    pool.zfs("create POOL/cache/c-opam");
    fs::write(pool.as_ref().join("cache/c-opam/file"), "theirs").unwrap();
    pool.zfs("unmount POOL/cache/c-opam");
    let store = open(pool.as_ref());
    assert_eq!(store.reconcile(&[]).unwrap().swept, [format!("result/{half}")]);
    assert_eq!(store.results().unwrap(), [whole]);
    assert_eq!(file_of(&store, "whole"), "theirs");
    let lease = store.cache(BStr::new("opam")).unwrap();
    assert_eq!(fs::read_to_string(lease.dir().join("file")).unwrap(), "theirs");
    assert!(lease.release().unwrap());
    make_on(&store, "half", Base::Result(&id("whole")));
    assert_eq!(file_of(&store, "half"), "half");
    eventually_empty(pool);
}

/// The commands that OBuilder runs for a step, on what we have made on what it has made.
fn obuilder_goes_on_with_what_we_made(pool: &TestPool) {
    for group in ["state", "result", "cache", "cache-tmp"] {
        pool.zfs(&format!("create POOL/{group}"));
    }
    let (theirs, ours, next) = (id("theirs"), id("ours"), id("next"));
    pool.zfs(&format!("create -o canmount=noauto POOL/result/{theirs}"));
    pool.zfs(&format!("mount POOL/result/{theirs}"));
    let dir = |id: &obuilder_core::ResultId| pool.as_ref().join(format!("result/{id}"));
    fs::create_dir(dir(&theirs).join("rootfs")).unwrap();
    pool.zfs(&format!("snapshot -r POOL/result/{theirs}@snap"));
    pool.zfs(&format!("unmount POOL/result/{theirs}"));
    {
        let store = open(pool.as_ref());
        let pending = store.begin(&ours, Base::Result(&theirs)).unwrap();
        fs::write(pending.dir().join("rootfs/file"), "ours").unwrap();
        fs::write(pending.dir().join("log"), "said\n").unwrap();
        pending.commit().unwrap();
        let lease = store.cache(BStr::new("opam")).unwrap();
        fs::write(lease.dir().join("file"), "ours").unwrap();
        assert!(lease.release().unwrap());
        eventually_empty(pool);
    }
    // It looks whether there is a result, clones it, has the clone mounted, and its children, of which there may be none.
    assert!(pool.try_zfs(&format!("list -p -H -o name POOL/result/{ours}")).status.success());
    pool.zfs(&format!("clone -o canmount=noauto POOL/result/{ours}@snap POOL/result/{next}"));
    pool.zfs(&format!("mount POOL/result/{next}"));
    assert_eq!(fs::read_to_string(dir(&next).join("log")).unwrap(), "said\n");
    let listed = pool.zfs(&format!("list -H -r -o name POOL/result/{ours}"));
    let place = pool.as_ref().join("shown");
    let mut tree = dir(&next).join("rootfs");
    for child in listed.lines().filter_map(|name| name.rsplit_once('/')).map(|(_, child)| child) {
        if child == ours.as_str() {
            continue;
        }
        let to = format!("POOL/result/{next}/{child}");
        pool.zfs(&format!("clone -o mountpoint=none POOL/result/{ours}/{child}@snap {to}"));
        pool.zfs(&format!("set mountpoint={} {to}", place.display()));
        tree = place.clone();
    }
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "ours");
    pool.zfs(&format!("snapshot -r POOL/result/{next}@snap"));
    // Its caches: a clone that is worked in, and takes the place of the one before.
    pool.zfs("clone POOL/cache/c-opam@snap POOL/cache-tmp/0-c-opam");
    let cached = pool.as_ref().join("cache-tmp/0-c-opam/file");
    assert_eq!(fs::read_to_string(cached).unwrap(), "ours");
    pool.zfs("destroy POOL/cache-tmp/0-c-opam");
}

fn a_check_finds_what_does_not_belong_there(pool: &TestPool) {
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    store.reconcile(&[]).unwrap();
    assert_eq!(store.check(false, false).unwrap(), []);
    for line in [
        "create -o canmount=noauto POOL/result/mine",
        &format!("create -o canmount=noauto POOL/result/{}", id("half")),
        &format!("create -o canmount=noauto POOL/result/{}", id("empty")),
        &format!("snapshot POOL/result/{}@snap", id("empty")),
        "create -o canmount=noauto POOL/result-tmp/1-0123abcd-2",
        "create -o canmount=noauto POOL/cache-tmp/1-0123abcd-2",
        "create -o canmount=noauto POOL/cache/c-half",
        "create -o canmount=noauto POOL/cache/mine",
    ] {
        pool.zfs(line);
    }
    fs::write(pool.as_ref().join("state/obuild-zfs/alive/1-2"), "").unwrap();
    fs::write(pool.as_ref().join(format!("state/obuild-zfs/kept/{}", id("gone"))), "").unwrap();
    let found = store.check(false, false).unwrap();
    let whats: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(found.len(), 9, "{whats:#?}");
    assert_eq!(store.check(false, false).unwrap().len(), 9, "nothing is changed");
    let repaired = store.check(true, false).unwrap();
    let lasting = |finding: &&Finding| matches!(finding.repair, Repair::Failed(_));
    assert_eq!(repaired.iter().filter(lasting).count(), 2, "{repaired:#?}");
    eventually_empty(pool);
    let left = store.check(false, false).unwrap();
    assert!(left.len() == 2 && left.iter().all(|one| one.what.contains("mine`")), "{left:#?}");
    assert_eq!(store.results().unwrap(), [id("a")]);
    pool.zfs("destroy POOL/result/mine");
    pool.zfs("destroy POOL/cache/mine");
    assert_eq!(store.check(false, false).unwrap(), []);
}

fn homes_and_prefixes_of_a_mac_are_cloned_along(pool: &TestPool) {
    homes_and_prefixes(pool, open);
}

fn homes_and_prefixes_are_carried_by_command(pool: &TestPool) {
    homes_and_prefixes(pool, common::open_by_command);
}

fn homes_and_prefixes(pool: &TestPool, open: fn(&Path) -> ZfsStore) {
    drop(open(pool.as_ref()));
    let base = format!("result/{}", id("mac"));
    pool.zfs(&format!("create -o canmount=noauto POOL/{base}"));
    for (child, at) in [("home", "rootfs"), ("brew", "rootfs/local")] {
        pool.zfs(&format!("create -o canmount=noauto POOL/{base}/{child}"));
        let dir = pool.as_ref().join("filling");
        pool.zfs(&format!("set mountpoint={} POOL/{base}/{child}", dir.display()));
        pool.zfs(&format!("mount POOL/{base}/{child}"));
        fs::write(dir.join("file"), at).unwrap();
        pool.zfs(&format!("unmount POOL/{base}/{child}"));
    }
    pool.zfs(&format!("snapshot -r POOL/{base}@snap"));
    let store = open(pool.as_ref());
    let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let pending = store.begin(&id("next"), Base::Result(&id("mac"))).unwrap();
    assert_eq!(read(pending.dir(), "rootfs/file"), "rootfs");
    assert_eq!(read(pending.dir(), "rootfs/local/file"), "rootfs/local");
    fs::write(pending.dir().join("rootfs/local/more"), "more").unwrap();
    let (tree, seen) = (pending.dir().join("rootfs"), pool.as_ref().join("seen"));
    if store.mode() == "mounts by `zfs mount`" {
        // The end of a step unmounts whatever is mounted in its tree.
        store.carry().away(&tree, &seen).unwrap();
        assert_eq!(read(&seen, "local/more"), "more");
        let brew = pool.names("/result-tmp").into_iter().find(|name| name.ends_with("brew"));
        pool.zfs(&format!("unmount POOL/result-tmp/{}", brew.unwrap()));
        store.carry().home(&seen, &tree).unwrap();
        assert_eq!(read(&tree, "local/more"), "more");
    }
    pending.commit().unwrap();
    let made = store.result(&id("next")).unwrap().unwrap();
    assert_eq!(read(&made.rootfs(), "local/more"), "more");
    let made_of = pool.names(&format!("/result/{}", id("next")));
    assert_eq!(made_of, ["brew", "brew@snap", "home", "home@snap"]);
    drop(made);
    assert!(store.delete(&id("next")).unwrap());
    eventually_empty(pool);
}

fn names_of_others_are_left_alone(pool: &TestPool) {
    let store = open(pool.as_ref());
    let lease = store.cache(BStr::new("squid")).unwrap();
    assert!(lease.release().unwrap());
    let theirs = ["trash/alice", "cache-tmp/2024-01-05", "result-tmp/old", "result/mine"];
    for name in theirs {
        pool.zfs(&format!("create -o canmount=noauto POOL/{name}"));
    }
    pool.zfs("snapshot POOL/cache/c-squid@old-config");
    pool.zfs("create -o canmount=noauto POOL/cache-tmp/0-c-opam");
    drop(store);
    let store = open(pool.as_ref());
    assert_eq!(store.reconcile(&[]).unwrap().swept, ["cache-tmp/0-c-opam"]);
    drop(store);
    let store = open(pool.as_ref());
    let found = store.check(true, true).unwrap();
    assert_eq!(found.len(), theirs.len(), "{found:#?}");
    assert!(found.iter().all(|one| matches!(one.repair, Repair::Failed(_))), "{found:#?}");
    drop(store);
    let left = pool.names("");
    assert!(theirs.iter().all(|name| left.iter().any(|one| one == name)), "{left:?}");
    assert!(left.contains(&"cache/c-squid@old-config".to_owned()), "{left:?}");
    assert!(!left.contains(&"cache-tmp/0-c-opam".to_owned()), "{left:?}");
}

fn a_pool_with_other_things_is_refused(pool: &TestPool) {
    pool.zfs("create POOL/trash");
    let mode = || fs::metadata(pool.as_ref().join("trash")).unwrap().permissions().mode();
    let before = mode();
    let refused = || matches!(common::try_open(pool.as_ref()), Err(StoreError::Foreign { .. }));
    assert!(refused());
    assert_eq!((mode(), pool.names("")), (before, vec!["trash".to_owned()]), "nothing is touched");
    for group in ["state", "result", "cache", "cache-tmp"] {
        pool.zfs(&format!("create POOL/{group}"));
    }
    assert!(refused(), "OBuilder has no `trash`");
    pool.zfs("destroy POOL/trash");
    open(pool.as_ref());
    pool.zfs("create POOL/trash/alice");
    open(pool.as_ref());
}

fn a_state_of_others_is_refused(pool: &TestPool) {
    pool.zfs("create POOL/state");
    let file = pool.as_ref().join("state/file");
    fs::write(&file, "").unwrap();
    assert!(matches!(common::try_open(pool.as_ref()), Err(StoreError::Foreign { .. })));
    fs::remove_file(file).unwrap();
    open(pool.as_ref());
}

/// A step may put a link into its cache where a tree would be; nothing of the host is unmounted through it.
#[test]
fn a_link_in_a_cache_leads_to_no_mount_of_the_host() {
    let Some(pool) = real() else { return };
    let host = tempfile::tempdir().unwrap();
    let local = host.path().join("local");
    fs::create_dir(&local).unwrap();
    pool.zfs(&format!("create -o mountpoint={} POOL/host", local.display()));
    fs::write(local.join("file"), "the host's").unwrap();
    for name in ["c", "d"] {
        let store = open(pool.as_ref());
        let lease = store.cache(BStr::new(name)).unwrap();
        std::os::unix::fs::symlink(host.path(), lease.dir().join("rootfs")).unwrap();
        if name == "c" {
            assert!(lease.release().unwrap());
        }
    }
    assert!(local.join("file").exists(), "it is still mounted");
    let dir = pool.as_ref().join("result").join(id("linked").as_str());
    pool.zfs(&format!("create -o canmount=noauto POOL/result/{}", id("linked")));
    pool.zfs(&format!("mount POOL/result/{}", id("linked")));
    std::os::unix::fs::symlink(host.path(), dir.join("rootfs")).unwrap();
    open(pool.as_ref()).reconcile(&[]).unwrap();
    assert!(local.join("file").exists(), "it is still mounted");
    pool.zfs("destroy POOL/host");
}

/// Has the stand-in write each command to the file that this gives.
fn note_calls(pool: &TestPool) -> PathBuf {
    let calls = pool.program.with_file_name("calls");
    let script = fs::read_to_string(&pool.program).unwrap();
    let noted = format!("echo \"$1\" >>'{}'; exec", calls.display());
    fs::write(&pool.program, script.replace("exec", &noted)).unwrap();
    calls
}

/// What waits in the trash for its clones costs a start nothing, and goes once they have gone.
fn what_waits_for_its_clones_is_not_tried_at_each_start(pool: &TestPool) {
    let store = open(pool.as_ref());
    for (name, base) in [("a", None), ("b", Some("a")), ("c", Some("b"))] {
        let base = base.map(id);
        make_on(&store, name, base.as_ref().map_or(Base::Empty, Base::Result));
    }
    let found = store.reconcile(&[]).unwrap().bases;
    assert_eq!((found.get(&id("b")), found.get(&id("a"))), (Some(&id("a")), None));
    assert!(store.delete(&id("a")).unwrap() && store.delete(&id("b")).unwrap());
    drop(store);
    assert_eq!(leftovers(pool.as_ref()).len(), 2);
    if !pool.is_real() {
        let calls = note_calls(pool);
        open(pool.as_ref()).reconcile(&[]).unwrap();
        let calls = fs::read_to_string(calls).unwrap();
        assert_eq!(calls, "list\nlist\n", "what there is, and of that what does not belong there");
    }
    let store = open(pool.as_ref());
    store.reconcile(&[]).unwrap();
    assert!(store.delete(&id("c")).unwrap());
    eventually_empty(pool);
}

fn images_are_copied_whole_and_without_devices(pool: &TestPool) {
    let store = open(pool.as_ref());
    pool.zfs("create POOL/base-image");
    let make = |name: &str| {
        pool.zfs(&format!("create POOL/base-image/{name}"));
        let rootfs = pool.as_ref().join(format!("base-image/{name}/rootfs"));
        fs::create_dir(&rootfs).unwrap();
        fs::write(rootfs.join("file"), name).unwrap();
        rootfs
    };
    let plain = make("plain");
    let made = !rustix::process::geteuid().is_root()
        || Command::new("mknod").arg(plain.join("null")).args(["c", "1", "3"]).status().is_ok();
    assert!(made);
    make("mac");
    // A home may have a `rootfs` of its own.
    make("mac/home");
    pool.zfs("create POOL/base-image/linked");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("secret"), "").unwrap();
    let link = pool.as_ref().join("base-image/linked/rootfs");
    std::os::unix::fs::symlink(host.path(), link).unwrap();
    for name in ["mac/home", "mac", "plain", "linked"] {
        pool.zfs(&format!("snapshot POOL/base-image/{name}@snap"));
        pool.zfs(&format!("unmount POOL/base-image/{name}"));
    }
    let images = ZfsFetcher::new(&store);
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let fetch = |name: &str| {
        let to = tempfile::tempdir().unwrap();
        images.fetch(BStr::new(name), to.path(), &log, &Cancel::new()).unwrap();
        to
    };
    let copied = fetch("plain");
    assert_eq!(fs::read_to_string(copied.path().join("file")).unwrap(), "plain");
    assert!(!copied.path().join("null").exists());
    let copied = fetch("mac");
    assert_eq!(fs::read_to_string(copied.path().join("rootfs/file")).unwrap(), "mac/home");
    let copied = fetch("linked");
    assert!(copied.path().join("rootfs").is_symlink(), "the tree is all of it");
    let cancel = Cancel::new();
    cancel.cancel();
    let to = tempfile::tempdir().unwrap();
    let stopped = images.fetch(BStr::new("plain"), to.path(), &log, &cancel);
    assert!(matches!(stopped, Err(FetchError::Cancelled(_))));
    eventually_empty(pool);
}

/// Also if it was shown by another, and somebody else held it.
fn whoever_lets_go_last_unmounts(pool: &TestPool) {
    let [store, other] = [(); 2].map(|()| open(pool.as_ref()));
    make_on(&store, "a", Base::Empty);
    let held = store.held_result(&id("a")).unwrap().unwrap();
    let shown = other.result(&id("a")).unwrap().unwrap();
    drop(shown);
    drop(held);
    let mounted = pool.zfs(&format!("list -Hp -r -o mounted POOL/result/{}", id("a")));
    assert!(!mounted.contains("yes"), "{mounted}");
    assert!(!pool.as_ref().join(format!("result/{}", id("a"))).exists());
}

/// As linkers write their output; nothing but the end of the step has it reach the disk.
fn what_was_written_as_memory_is_in_the_result(pool: &TestPool) {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    const LEN: usize = 64 << 10;
    let store = open(pool.as_ref());
    let pending = store.begin(&id("mapped"), Base::Empty).unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(pending.dir().join("rootfs/file"))
        .unwrap();
    file.set_len(LEN as u64).unwrap();
    // SAFETY: the mapping is of a file that is as long, and is not used after it was undone.
    unsafe {
        let (null, wanted) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        let memory = mmap(null, LEN, wanted, MapFlags::SHARED, &file, 0).unwrap();
        memory.cast::<u8>().write_bytes(b'x', LEN);
        munmap(memory, LEN).unwrap();
    }
    drop(file);
    pending.commit().unwrap();
    let result = store.result(&id("mapped")).unwrap().unwrap();
    let found = fs::read(result.rootfs().join("file")).unwrap();
    assert!(found == [b'x'; LEN], "{} bytes", found.len());
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_zfs { $(#[test] fn $name() { if let Some(pool) = super::real() { super::$name(&pool); } })* }
        mod on_stand_in { $(#[test] fn $name() { if let Some(pool) = super::stand_in() { super::$name(&pool); } })* }
    };
}

on_both!(
    a_step_runs_zfs_ten_times_where_commands_mount
    names_of_others_are_left_alone
    a_pool_with_other_things_is_refused
    a_state_of_others_is_refused
    obuilder_goes_on_with_what_we_made
    a_check_finds_what_does_not_belong_there
    replaced_versions_of_a_cache_do_not_pile_up
    a_deleted_base_goes_when_nothing_stands_on_it
    what_a_kept_tree_stands_on_frees_nothing
    what_obuilder_left_is_used
    homes_and_prefixes_of_a_mac_are_cloned_along
    homes_and_prefixes_are_carried_by_command
    what_waits_for_its_clones_is_not_tried_at_each_start
    images_are_copied_whole_and_without_devices
    what_was_written_as_memory_is_in_the_result
    whoever_lets_go_last_unmounts
);

/// What one step costs: a tree on the last result, carried to where a step sees it and back, saved, and held for the next.
fn commands_of_a_step(store: &ZfsStore, place: &Path) -> u64 {
    make_on(store, "a", Base::Empty);
    let (before, seen) = (store.commands_run(), place.join("seen"));
    let pending = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
    let tree = pending.dir().join("rootfs");
    store.carry().away(&tree, &seen).unwrap();
    assert_eq!(fs::read_to_string(seen.join("file")).unwrap(), "a");
    fs::write(seen.join("file"), "b").unwrap();
    store.carry().home(&seen, &tree).unwrap();
    pending.commit().unwrap();
    let held = store.held_result(&id("b")).unwrap().unwrap();
    let commands = store.commands_run() - before;
    assert_eq!(fs::read_to_string(held.rootfs().join("file")).unwrap(), "b");
    drop(held);
    assert_eq!(file_of(store, "b"), "b");
    assert_eq!(file_of(store, "a"), "a");
    commands
}

#[test]
fn a_step_runs_zfs_twice_where_the_kernel_mounts() {
    let Some(pool) = real() else { return };
    let store = open(pool.as_ref());
    let commands = commands_of_a_step(&store, pool.as_ref());
    assert_eq!(commands, 2, "a clone, a snapshot");
}

/// Who makes a result in its place goes on aside when somebody else has made it first, in whatever way that ends.
#[test]
fn who_makes_a_result_in_its_place_makes_way() {
    let Some(pool) = real() else { return };
    let [store, other] = [(); 2].map(|()| open(pool.as_ref()));
    make_on(&store, "base", Base::Empty);
    let begin = |store: &ZfsStore, text: &str| {
        let pending = store.begin(&id("a"), Base::Result(&id("base"))).unwrap();
        fs::write(pending.dir().join("rootfs/file"), text).unwrap();
        pending
    };
    for (end, kept) in [("commit", false), ("keep", true), ("discard", false), ("drop", false)] {
        let slow = begin(&store, "slow");
        assert!(pool.names("/result").contains(&id("a").to_string()), "it is made in its place");
        // Whoever else starts leaves it alone, and what a deletion would free is known.
        other.reconcile(&[]).unwrap();
        assert_eq!(other.check(true, false).unwrap(), []);
        assert!(other.result(&id("a")).unwrap().is_none());
        let by = other.held().unwrap().by;
        assert_eq!(by.get(&id("base")), Some(&vec![None]), "a step runs on it");
        let fast = begin(&other, "fast");
        fast.commit().unwrap();
        fs::write(slow.dir().join("rootfs/more"), "").unwrap();
        match end {
            "commit" => slow.commit().unwrap(),
            "keep" => slow.keep().unwrap(),
            "discard" => slow.discard().unwrap(),
            _ => drop(slow),
        }
        assert_eq!(file_of(&store, "a"), "fast", "{end}");
        let found = store.kept(&id("a")).unwrap();
        assert_eq!(found.is_some(), kept, "{end}");
        if let Some(found) = found {
            assert_eq!(fs::read_to_string(found.rootfs().join("file")).unwrap(), "slow");
            assert!(found.rootfs().join("more").exists());
        }
        assert!(store.delete(&id("a")).unwrap());
        eventually_empty(&pool);
        assert_eq!(store.check(false, false).unwrap(), [], "{end}");
    }
    // Nobody has come first.
    for (end, there) in [("keep", false), ("discard", false), ("drop", false), ("commit", true)] {
        let pending = begin(&store, end);
        match end {
            "commit" => pending.commit().unwrap(),
            "keep" => pending.keep().unwrap(),
            "discard" => pending.discard().unwrap(),
            _ => drop(pending),
        }
        assert_eq!(store.result(&id("a")).unwrap().is_some(), there, "{end}");
        eventually_empty(&pool);
        assert_eq!(store.check(false, false).unwrap(), [], "{end}");
    }
    assert_eq!(file_of(&store, "a"), "commit");
}

/// Those for a dataset and its tree: two clones, two mounts, two unmounts, two changes of a mount point, a snapshot, a rename.
fn a_step_runs_zfs_ten_times_where_commands_mount(pool: &TestPool) {
    let store = common::open_by_command(pool.as_ref());
    assert_eq!(commands_of_a_step(&store, pool.as_ref()), 10);
}

/// What a deletion is said to free is what it frees.
#[test]
fn sizes_are_what_a_deletion_frees() {
    let Some(pool) = real() else { return };
    let store = open(pool.as_ref());
    make_on(&store, "a", Base::Empty);
    let pending = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(pending.dir().join("rootfs/big"), noise).unwrap();
    pending.commit().unwrap();
    let begun = Instant::now();
    // ZFS counts what it has written a moment ago.
    while store.size(&id("b")).unwrap() < 2_000_000 {
        assert!(begun.elapsed() < BOUND, "{}", store.size(&id("b")).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    let size = store.size(&id("b")).unwrap();
    assert!(store.size(&id("a")).unwrap() < 1_000_000, "`b` is not its own");
    let free = store.usage().unwrap().free;
    assert!(store.delete(&id("b")).unwrap());
    let begun = Instant::now();
    while store.usage().unwrap().free < free + size - 200_000 {
        assert!(begun.elapsed() < BOUND, "what was deleted is not freed");
        std::thread::sleep(Duration::from_millis(50));
    }
}
