//! The tree copier beside `cp` and `rsync`: ratios of medians, measured in turns in one run.
//!
//! `cargo bench -p tree-copy`. `COPIER_FILES` and `COPIER_ROUNDS` change the size of the tree (50,000) and the number of
//! rounds (5). Reflinks need root, `mkfs.xfs` and a free loop device, and are left out where these are missing.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tree_copy::testing::make_ordinary;
use tree_copy::{How, Options, copy_tree, digest_tree, remove_tree, stamp_tree, tree_size};

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One way to do the work; `None` when its program is missing.
type Contender<'a> = (&'a str, Box<dyn Fn() -> bool + 'a>);

fn command(line: &[&str]) -> bool {
    let status = Command::new(line[0]).args(&line[1..]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs all contenders in turns; gives the median time of each that works.
fn race<'a>(
    contenders: &[Contender<'a>],
    rounds: usize,
    after: impl Fn(),
) -> Vec<(&'a str, Duration)> {
    let mut times = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let start = Instant::now();
            let worked = (contender.1)();
            let took = start.elapsed();
            after();
            // The first round only warms the caches.
            if worked && round > 0 {
                times.push(took);
            }
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let with_times = contenders.iter().zip(times).filter(|(_, times)| !times.is_empty());
    with_times.map(|(contender, times)| (contender.0, median(times))).collect()
}

fn show(title: &str, results: &[(&str, Duration)]) {
    println!("{title}");
    let Some(&(_, ours)) = results.first() else { return };
    for (name, time) in results {
        let ratio = ours.as_secs_f64() / time.as_secs_f64();
        println!("  {name:<28} {:>9.3} s   ours is {ratio:.2}x of it", time.as_secs_f64());
    }
}

fn copy(from: &Path, to: &Path, how: How) -> bool {
    copy_tree(from, to, &Options { how, ..Options::default() }).unwrap();
    true
}

fn contenders<'a>(a: &'a Path, b: &'a Path, how: How, cp: &'a [&'a str]) -> Vec<Contender<'a>> {
    let (from, to) = (a.to_str().unwrap(), b.to_str().unwrap());
    let slash = format!("{from}/");
    vec![
        ("copy_tree", Box::new(move || copy(a, b, how))),
        (
            if cp.len() > 2 { "cp -a --reflink=always" } else { "cp -a" },
            Box::new(move || command(&[cp, &[from, to]].concat())),
        ),
        ("rsync -aH", Box::new(move || command(&["rsync", "-aH", &slash, to]))),
    ]
}

/// Moves a copy out of the next one's way, written out. Not removed: for half a minute ext4 would step over the inodes that
/// went, one by one, and every copy made then would cost several times as much, whoever makes it.
fn set_aside(copy: &Path) -> impl Fn() {
    let copies = Cell::new(0);
    move || {
        copies.set(copies.get() + 1);
        std::fs::rename(copy, copy.with_extension(copies.get().to_string())).unwrap();
        command(&["sync"]);
    }
}

fn plain(dir: &Path, files: usize, rounds: usize) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    make_ordinary(&a, files, files as u64 * 22_000, 1).unwrap();
    let all = contenders(&a, &b, How::Copy, &["cp", "-a"]);
    let results = race(&all, rounds, set_aside(&b));
    show(&format!("copy of {files} files to a fresh directory, {}", dir.display()), &results);

    let looks: Vec<Contender<'_>> = vec![
        ("stamp_tree", Box::new(|| stamp_tree(&a, None).is_ok())),
        ("tree_size", Box::new(|| tree_size(&a).is_ok())),
        ("digest_tree", Box::new(|| digest_tree(&a, None).is_ok())),
        (
            "du -s",
            Box::new(|| command(&["sh", "-c", "du -s \"$0\" >/dev/null", a.to_str().unwrap()])),
        ),
    ];
    show("walks", &race(&looks, rounds, || ()));
    removal(&a, &b, rounds);
}

fn removal(a: &Path, b: &Path, rounds: usize) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (ours, times) in [true, false].into_iter().zip(&mut times) {
            copy(a, b, How::Copy);
            let start = Instant::now();
            assert!(if ours {
                remove_tree(b).is_ok()
            } else {
                command(&["rm", "-rf", b.to_str().unwrap()])
            });
            times.push(start.elapsed());
        }
    }
    let [ours, rm] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    show("removal", &[("remove_tree", ours), ("rm -rf", rm)]);
}

/// A new filesystem on a loop device, which goes away with this.
struct Loop {
    mount: PathBuf,
    device: String,
}

impl Loop {
    fn new(dir: &Path, kind: &str, mkfs: &[&str]) -> Option<Self> {
        let (image, mount) = (dir.join(format!("{kind}.img")), dir.join(kind));
        std::fs::create_dir(&mount).ok()?;
        std::fs::File::create(&image).ok()?.set_len(24 << 30).ok()?;
        // Without direct I/O every page would be in memory twice.
        let attached = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&image)
            .output();
        let device = String::from_utf8(attached.ok()?.stdout).ok()?.trim().to_owned();
        let made =
            command(&[mkfs, &[&device]].concat()) && command(&["mount", &device, mount.to_str()?]);
        let new = Self { mount, device };
        made.then_some(new)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        command(&["umount", self.mount.to_str().unwrap()]);
        command(&["losetup", "--detach", &self.device]);
    }
}

fn main() {
    let (files, rounds) = (number("COPIER_FILES", 50_000), number("COPIER_ROUNDS", 5));
    let dir = tempfile::tempdir().unwrap();
    match Loop::new(
        dir.path(),
        "ext4",
        &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    ) {
        Some(ext4) => plain(&ext4.mount, files, rounds),
        None => {
            println!(
                "SKIP: a new ext4 needs root and a loop device; this is {}",
                dir.path().display()
            );
            plain(dir.path(), files, rounds);
        }
    }
    match Loop::new(dir.path(), "xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"]) {
        Some(xfs) => reflinks(&xfs.mount, files, rounds),
        None => println!("SKIP: reflinks need root, mkfs.xfs and a loop device"),
    }
}

fn reflinks(dir: &Path, files: usize, rounds: usize) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    make_ordinary(&a, files, files as u64 * 22_000, 1).unwrap();
    command(&["sync"]);
    let all = contenders(&a, &b, How::Reflink, &["cp", "-a", "--reflink=always"]);
    let results = race(&all, rounds, set_aside(&b));
    show(&format!("copy with reflinks of {files} files, XFS"), &results);
}
