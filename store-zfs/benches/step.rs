//! What the store adds to a step on real ZFS: for small and large trees, and beside the commands that OBuilder runs for one.
//!
//! `tests/zfs-vm/bench` runs it in the virtual machine. `OBUILD_TEST_ZFS` names a dataset to use, `ROUNDS` how often, `FILES` how many
//! files the large tree has.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use obuilder_core::contracts::Base;
use obuilder_core::{ResultId, Store};
use store_zfs::{Options, Place, ZfsStore};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn zfs(line: &str) -> String {
    let output = Command::new("zfs").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "zfs {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn id(text: &str) -> ResultId {
    ResultId::of(text.as_bytes())
}

/// A base with `files` files, and as children what a Mac's results have, if wanted.
fn make_base(store: &ZfsStore, pool: &str, name: &str, files: usize, children: bool) {
    let pending = store.begin(&id(name), Base::Empty).unwrap();
    for dir in 0..files.div_ceil(1000) {
        let dir_path = pending.dir().join(format!("rootfs/{dir}"));
        fs::create_dir(&dir_path).unwrap();
        for file in 0..(files - dir * 1000).min(1000) {
            fs::write(dir_path.join(file.to_string()), "x").unwrap();
        }
    }
    fs::create_dir(pending.dir().join("rootfs/local")).unwrap();
    pending.commit().unwrap();
    if children {
        let base = format!("{pool}/result/{}", id(name));
        for child in ["home", "brew"] {
            zfs(&format!("create -o mountpoint=/tmp/filling {base}/{child}"));
            fs::create_dir_all("/tmp/filling/local").unwrap();
            zfs(&format!("unmount {base}/{child}"));
            zfs(&format!("snapshot {base}/{child}@snap"));
        }
    }
}

/// A step that writes one file; all that it takes but the writing: it is looked for, begun, committed, and pinned as long as it is used.
fn our_step(store: &ZfsStore, base: &str, name: &str) -> [Duration; 4] {
    let timed = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    let looked = timed(&mut || assert!(store.result(&id(name)).unwrap().is_none()));
    let mut pending = None;
    let begin = || store.begin(&id(name), Base::Result(&id(base))).unwrap();
    let started = timed(&mut || pending = Some(begin()));
    let mut pending = pending;
    fs::write(pending.as_ref().unwrap().dir().join("rootfs/new"), name).unwrap();
    let committed = timed(&mut || pending.take().unwrap().commit().unwrap());
    let mut pin = None;
    let pinned = timed(&mut || pin = store.result(&id(name)).unwrap());
    [looked, started, committed, pinned]
}

/// The same by the commands that OBuilder runs (its `lib/db_store.ml` and `lib/zfs_store.ml`; those for children its macOS sandbox).
fn their_step(pool: &str, base: &str, name: &str, children: &[&str]) -> Duration {
    let (base, own) =
        (format!("{pool}/result/{}", id(base)), format!("{pool}/result/{}", id(name)));
    let begun = Instant::now();
    for absent in [format!("{own}@snap"), own.clone()] {
        let _ = Command::new("zfs").args(["list", "-p", "-H", &absent]).output().unwrap();
    }
    zfs(&format!("clone -o canmount=noauto -- {base}@snap {own}"));
    zfs(&format!("mount {own}"));
    zfs(&format!("list -H -r -o name {base}"));
    for child in children {
        zfs(&format!("clone -o mountpoint=none -- {base}/{child}@snap {own}/{child}"));
    }
    for child in children {
        zfs(&format!("set mountpoint=/tmp/shown-{child} {own}/{child}"));
    }
    let started = begun.elapsed();
    let tree = match children.is_empty() {
        true => format!("/{own}/rootfs"),
        false => "/tmp/shown-home".to_owned(),
    };
    fs::write(Path::new(&tree).join("new"), name).unwrap();
    let working = Instant::now();
    for child in children {
        zfs(&format!("unmount {own}/{child}"));
    }
    zfs(&format!("snapshot -r -- {own}@snap"));
    zfs(&format!("unmount -f {own}"));
    started + working.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn main() {
    let Ok(parent) = std::env::var("OBUILD_TEST_ZFS") else {
        println!("SKIP: there is no ZFS here; tests/zfs-vm/bench runs this on it");
        return;
    };
    let (rounds, files) = (number("ROUNDS", 7), number("FILES", 100_000));
    let pool = format!("{parent}/bench");
    zfs(&format!("create {pool}"));
    let place = Place { root: Path::new("/").join(&pool), pool: pool.clone() };
    let store = ZfsStore::open(place.clone(), &Options::default()).unwrap();
    for (name, files, children) in
        [("small", 10, false), ("large", files, false), ("mac", 10, true)]
    {
        let begun = Instant::now();
        make_base(&store, &pool, name, files, children);
        println!("{name}: {files} files made in {:.1} s", begun.elapsed().as_secs_f64());
    }
    drop(store);
    let store = ZfsStore::open(place, &Options::default()).unwrap();
    // Sees what the base has below it.
    store.reconcile(&[]).unwrap();
    let mut times = [(); 5].map(|()| Vec::new());
    let mut parts = [(); 4].map(|()| Vec::new());
    let sum = |step: [Duration; 4]| step.iter().sum::<Duration>();
    let mut commands = [0; 2];
    for round in 0..rounds {
        for (number, base) in ["small", "large"].iter().enumerate() {
            let step = our_step(&store, base, &format!("{base} {round}"));
            parts.iter_mut().zip(step).for_each(|(part, time)| part.push(time));
            times[number].push(sum(step));
        }
        times[2].push(their_step(&pool, "small", &format!("their {round}"), &[]));
        let before = store.commands_run();
        times[3].push(sum(our_step(&store, "mac", &format!("mac {round}"))));
        commands[1] = store.commands_run() - before;
        times[4].push(their_step(&pool, "mac", &format!("their mac {round}"), &["home", "brew"]));
        let before = store.commands_run();
        our_step(&store, "small", &format!("counted {round}"));
        commands[0] = store.commands_run() - before;
    }
    let [small, large, theirs, mac, their_mac] = times.map(median);
    println!("commands a step: {}, with two children {}", commands[0], commands[1]);
    println!(
        "step on 10 files: {small:.0} ms; on {files}: {large:.0} ms, {:.2} times",
        large / small
    );
    let [looked, began, committed, pinned] = parts.map(median);
    println!(
        "looked for in {looked:.0} ms, begun in {began:.0}, committed in {committed:.0}, pinned in {pinned:.0}"
    );
    println!("as OBuilder runs it: {theirs:.0} ms; ours takes {:.2} of that", small / theirs);
    println!(
        "with two children: {mac:.0} ms; as OBuilder runs it: {their_mac:.0} ms; ours takes {:.2}",
        mac / their_mac
    );
    drop(store);
    zfs(&format!("destroy -R -f {pool}"));
}
