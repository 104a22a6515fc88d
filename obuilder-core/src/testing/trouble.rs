//! What every [`Store`] must stand: kills, other processes, and a full volume.
//!
//! [`store_trouble!`](crate::store_trouble) makes one test of each.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bstr::BStr;

use super::store::Open;
use crate::contracts::{Base, Store};
use crate::error::StoreError;
use crate::id::ResultId;

/// Lists what lies in the store in a directory that belongs to work in progress, or waits to be deleted.
pub type Leftovers<'a> = &'a dyn Fn(&Path) -> Vec<String>;

/// What tells a process of these tests what it is to do, and where.
const ROLE: &str = "OBUILDER_TEST_ROLE";
const PLACE: &str = "OBUILDER_TEST_PLACE";

/// The role of a process that makes results which others make too; the number of them follows.
const RACE: &str = "race ";

/// How long anything here may take, even on a busy machine.
const BOUND: Duration = Duration::from_secs(120);

/// Makes a test of each check, in a module for the store: `place` and `open` are those of
/// [`store_conformance!`](crate::store_conformance), `small` gives a place with room for at most 64 MiB, and `leftovers` is
/// a [`Leftovers`]. Where a result takes many commands, `rounds` tells how many each of the racing processes makes instead of 20.
#[macro_export]
macro_rules! store_trouble {
    ($name:ident, $place:expr, $small:expr, $open:expr, $leftovers:expr) => {
        $crate::store_trouble!($name, $place, $small, $open, $leftovers, rounds = 20);
    };
    ($name:ident, $place:expr, $small:expr, $open:expr, $leftovers:expr, rounds = $rounds:expr) => {
        mod $name {
            use super::*;

            /// Not a test by itself: what the other processes of the tests do.
            #[test]
            fn child_process() {
                $crate::testing::trouble::child(&$open);
            }

            #[test]
            fn a_living_process_keeps_what_it_holds_and_a_killed_one_nothing() {
                if let Some(place) = ($place)() {
                    let place: &::std::path::Path = ::std::convert::AsRef::as_ref(&place);
                    let child = concat!(stringify!($name), "::child_process");
                    $crate::testing::trouble::a_kill_lets_go(&$open, &$leftovers, place, child);
                }
            }

            #[test]
            fn a_kill_at_any_moment_leaves_whole_results_or_none() {
                if let Some(place) = ($place)() {
                    let place: &::std::path::Path = ::std::convert::AsRef::as_ref(&place);
                    let child = concat!(stringify!($name), "::child_process");
                    $crate::testing::trouble::kills_leave_whole_results(
                        &$open,
                        &$leftovers,
                        place,
                        child,
                    );
                }
            }

            #[test]
            fn processes_may_make_the_same_results_and_sweep_at_once() {
                if let Some(place) = ($place)() {
                    let place: &::std::path::Path = ::std::convert::AsRef::as_ref(&place);
                    let child = concat!(stringify!($name), "::child_process");
                    $crate::testing::trouble::many_processes(
                        &$open,
                        &$leftovers,
                        place,
                        child,
                        $rounds,
                    );
                }
            }

            #[test]
            fn a_full_volume_is_said_and_the_store_stays_usable() {
                if let Some(place) = ($small)() {
                    let place: &::std::path::Path = ::std::convert::AsRef::as_ref(&place);
                    $crate::testing::trouble::a_full_volume(&$open, place);
                }
            }
        }
    };
}

fn id(text: &str) -> ResultId {
    ResultId::of(text.as_bytes())
}

fn make(store: &dyn Store, name: &str, base: Base<'_>) -> Result<(), StoreError> {
    let pending = store.begin(&id(name), base)?;
    let file = pending.dir().join("rootfs/file");
    fs::write(&file, name).map_err(|e| StoreError::io("write", e))?;
    pending.commit()
}

fn file_of(store: &dyn Store, id: &ResultId) -> String {
    let result = store.result(id).unwrap().unwrap();
    fs::read_to_string(result.rootfs().join("file")).unwrap()
}

/// Waits until the background has removed what was deleted.
fn eventually_empty(leftovers: Leftovers<'_>, place: &Path) {
    let begun = Instant::now();
    while !leftovers(place).is_empty() {
        assert!(begun.elapsed() < BOUND, "left: {:?}", leftovers(place));
        sleep(Duration::from_millis(5));
    }
}

/// Runs the test `child`, which calls [`child`], in a process of its own; returns once that has said that it is ready.
fn spawn(place: &Path, child: &str, role: &str) -> Child {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([child, "--exact", "--nocapture"])
        .env(ROLE, role)
        .env(PLACE, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().ends_with("READY")),
        "the child ended before it was ready"
    );
    process
}

fn ready() {
    std::io::stdout().write_all(b"\nREADY\n").unwrap();
}

/// Until the parent closes the pipe or kills this process.
fn wait_for_parent() {
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// What the other processes of the tests do; in a process that is none of them, nothing.
pub fn child(open: Open<'_>) {
    let Ok(role) = std::env::var(ROLE) else { return };
    let place = std::env::var_os(PLACE).unwrap();
    let store = open(Path::new(&place));
    match role.as_str() {
        "hold" => {
            let _pin = store.result(&id("a")).unwrap().unwrap();
            let _pending = store.begin(&id("b"), Base::Result(&id("a"))).unwrap();
            let _lease = store.cache(BStr::new("c")).unwrap();
            ready();
            wait_for_parent();
        }
        "churn" => {
            ready();
            for round in 0..1000 {
                make(&*store, &format!("churn {round}"), Base::Empty).unwrap();
                let lease = store.cache(BStr::new("c")).unwrap();
                fs::write(lease.dir().join("file"), round.to_string()).unwrap();
                lease.release().unwrap();
            }
        }
        other => {
            let rounds = other.strip_prefix(RACE).unwrap().parse::<usize>().unwrap();
            ready();
            for round in 0..rounds {
                make(&*store, &format!("race {round}"), Base::Empty).unwrap();
                store.reconcile(&[]).unwrap();
            }
        }
    }
}

/// A result, a tree and a lease belong to a process for as long as it lives.
pub fn a_kill_lets_go(open: Open<'_>, leftovers: Leftovers<'_>, place: &Path, child: &str) {
    let store = open(place);
    make(&*store, "a", Base::Empty).unwrap();
    let mut process = spawn(place, child, "hold");
    assert!(matches!(store.delete(&id("a")), Err(StoreError::InUse(_))));
    assert_eq!(store.reconcile(&[id("a")]).unwrap().swept, [""; 0]);
    assert_eq!(leftovers(place).len(), 2, "the child's tree and lease: {:?}", leftovers(place));
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(store.reconcile(&[id("a")]).unwrap().swept.len(), 2);
    eventually_empty(leftovers, place);
    assert!(store.delete(&id("a")).unwrap());
}

/// After a kill every result is whole, and the next process makes new ones and leases caches.
pub fn kills_leave_whole_results(
    open: Open<'_>,
    leftovers: Leftovers<'_>,
    place: &Path,
    child: &str,
) {
    for round in 0..5 {
        let mut process = spawn(place, child, "churn");
        sleep(Duration::from_millis(3 + 37 * round));
        process.kill().unwrap();
        process.wait().unwrap();
        let store = open(place);
        store.reconcile(&[]).unwrap();
        for id in store.results().unwrap() {
            assert!(file_of(&*store, &id).starts_with("churn"));
        }
        let lease = store.cache(BStr::new("c")).unwrap();
        fs::write(lease.dir().join("file"), "after the kill").unwrap();
        assert!(lease.release().unwrap());
        make(&*store, "churn on", Base::Empty).unwrap();
        eventually_empty(leftovers, place);
    }
}

/// Processes that do the same `rounds` times at once, and sweep meanwhile, do not disturb each other.
pub fn many_processes(
    open: Open<'_>,
    leftovers: Leftovers<'_>,
    place: &Path,
    child: &str,
    rounds: usize,
) {
    drop(open(place));
    let role = format!("{RACE}{rounds}");
    let mut racing: Vec<_> = (0..3).map(|_| spawn(place, child, &role)).collect();
    for process in &mut racing {
        assert!(process.wait().unwrap().success());
    }
    let store = open(place);
    assert_eq!(store.results().unwrap().len(), rounds);
    store.reconcile(&[]).unwrap();
    eventually_empty(leftovers, place);
}

/// Writes until there is no room; gives the error.
fn fill(path: &Path) -> std::io::Error {
    let mut file = fs::File::create(path).unwrap();
    let full =
        (0..256).find_map(|_| file.write_all(&[7; 1 << 20]).and_then(|()| file.sync_all()).err());
    full.expect("the volume has room for at most 64 MiB")
}

/// What cannot be done says that there is no room, and all can be done again when there is.
pub fn a_full_volume(open: Open<'_>, place: &Path) {
    let store = open(place);
    make(&*store, "a", Base::Empty).unwrap();
    let pending = store.begin(&id("big"), Base::Result(&id("a"))).unwrap();
    let full = StoreError::io("write", fill(&pending.dir().join("rootfs/big")));
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    // Whatever has room is done, and what has none says so.
    let release = || store.cache(BStr::new("c"))?.release();
    for tried in [make(&*store, "b", Base::Result(&id("a"))), release().map(drop)] {
        if let Err(error) = tried {
            assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        }
    }
    pending.discard().unwrap();
    let begun = Instant::now();
    while store.usage().unwrap().free < 4 << 20 {
        assert!(begun.elapsed() < BOUND, "what was discarded is not freed");
        sleep(Duration::from_millis(20));
    }
    make(&*store, "c", Base::Result(&id("a"))).unwrap();
    assert_eq!(file_of(&*store, &id("c")), "c");
    assert_eq!(file_of(&*store, &id("a")), "a");
    store.reconcile(&[]).unwrap();
    assert!(store.cache(BStr::new("c")).unwrap().release().unwrap());
}
