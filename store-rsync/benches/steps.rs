//! What a step costs on a large tree, beside a bare walk, `cp -al` and `rsync -aH`: `cargo bench -p store-rsync --bench steps`.
//!
//! On new filesystems on loop devices, which needs root: ext4, and XFS with reflinks. `STEPS_FILES` and `STEPS_ROUNDS` change
//! the size of the tree (50,000 files) and the number of steps (10); `STEPS_ON` names one filesystem alone.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use obuilder_core::contracts::Base;
use obuilder_core::{ResultId, Store};
use store_rsync::{Mode, RsyncStore, WarmTrees};
use tree_copy::testing::{Random, make_ordinary};

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run(line: &[&str]) -> bool {
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).stderr(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// A new filesystem on a loop device, which goes away with this.
struct Loop(PathBuf, #[allow(dead_code)] tempfile::TempDir);

impl Loop {
    fn new(mkfs: &[&str]) -> Option<Self> {
        let parent =
            std::env::var_os("OBUILD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(parent).ok()?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        fs::create_dir(&mount).ok()?;
        fs::File::create(&image).ok()?.set_len(16 << 30).ok()?;
        let made = run(&[mkfs, &[image.to_str()?]].concat())
            && run(&["mount", "-o", "loop", image.to_str()?, mount.to_str()?]);
        made.then_some(Self(mount, dir))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for _ in 0..100 {
            if run(&["umount", self.0.to_str().unwrap()]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn stat_walk(root: &Path) -> u64 {
    let (mut count, mut dirs) = (0, vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            count += 1;
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                dirs.push(path);
            }
        }
    }
    count
}

/// Seconds that processors have spent for `whom`.
fn spent(whom: libc::c_int) -> f64 {
    // SAFETY: the structure is plain numbers, and the call fills all of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(whom, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

struct Bench {
    place: PathBuf,
    store: RsyncStore,
    files: Vec<PathBuf>,
    random: Random,
    results: usize,
    /// How long a step takes besides.
    lasts: Duration,
}

fn open(place: &Path) -> RsyncStore {
    let warm = WarmTrees { most: 1, ..WarmTrees::default() };
    RsyncStore::open_with(&place.join("store"), Mode::Auto, warm).unwrap()
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() && meta.nlink() == 1 && meta.size() < 100_000 {
                files.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    files
}

impl Bench {
    fn new(place: &Path, files: usize) -> (Self, ResultId) {
        let store = open(place);
        let first = ResultId::of(b"first");
        let pending = store.begin(&first, Base::Empty).unwrap();
        let rootfs = pending.dir().join("rootfs");
        make_ordinary(&rootfs, files, files as u64 * 22_000, 1).unwrap();
        let files = files_below(&rootfs);
        pending.commit().unwrap();
        let place = place.to_owned();
        (
            Self { place, store, files, random: Random::new(1), results: 0, lasts: Duration::ZERO },
            first,
        )
    }

    /// One step that changes `changes` files; the time of begin, of the step, and of commit.
    fn step(&mut self, base: &ResultId, changes: usize) -> (ResultId, [Duration; 3]) {
        self.results += 1;
        let id = ResultId::of(self.results.to_string().as_bytes());
        let start = Instant::now();
        let pending = self.store.begin(&id, Base::Result(base)).unwrap();
        let begun = start.elapsed();
        for _ in 0..changes {
            let at = self.random.below(self.files.len() as u64) as usize;
            let text = format!("step {} {}", self.results, "x".repeat(4000));
            fs::write(pending.dir().join("rootfs").join(&self.files[at]), text).unwrap();
        }
        std::thread::sleep(self.lasts);
        let worked = start.elapsed();
        pending.commit().unwrap();
        (id, [begun, worked - begun, start.elapsed() - worked])
    }

    fn rootfs(&self, id: &ResultId) -> PathBuf {
        self.store.result(id).unwrap().unwrap().rootfs()
    }

    fn used(&self) -> u64 {
        run(&["sync", "-f", self.place.to_str().unwrap()]);
        let usage = self.store.usage().unwrap();
        usage.total - usage.free
    }
}

fn of(what: &str, ours: f64, walk: f64, links: f64, bound: &str) {
    println!(
        "  {what:<52} {ours:>7.3} s  {:>5.2}x of the walk  {:>5.2}x of cp -al  {bound}",
        ours / walk,
        ours / links
    );
}

fn measure(title: &str, place: &Path) {
    let (files, rounds) = (number("STEPS_FILES", 50_000), number("STEPS_ROUNDS", 10));
    let (mut bench, first) = Bench::new(place, files);
    run(&["sync"]);
    let (mut last, [fresh, _, commit]) = bench.step(&first, 10);
    println!(
        "{title}, mode {}: first begin (a copy) {fresh:.3?}, its commit {commit:.3?}",
        bench.store.mode()
    );
    let root = bench.rootfs(&first);
    let (mut walks, mut links, mut steps, mut begins) = (vec![], vec![], vec![], vec![]);
    let mut work = [0.0; 3];
    let (own, children) = (libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN);
    for round in 0..rounds {
        let before = spent(own);
        walks.push(time(|| stat_walk(&root)));
        work[0] += spent(own) - before;
        let before = spent(children);
        let to = place.join(format!("links-{round}"));
        links.push(time(|| run(&["cp", "-al", root.to_str().unwrap(), to.to_str().unwrap()])));
        work[1] += spent(children) - before;
        run(&["sync", "-f", place.to_str().unwrap()]);
        let before = spent(own);
        let (id, [begin, _, commit]) = bench.step(&last, 10);
        work[2] += spent(own) - before;
        steps.push(begin + commit);
        begins.push(begin);
        last = id;
    }
    let (walk, link) = (median(walks), median(links));
    println!("  walk {walk:.3} s, cp -al {link:.3} s, begin {:.4} s", median(begins));
    of(
        "a step of no time that changed 10 files, in all",
        median(steps.clone()),
        walk,
        link,
        "<= 0.8x cp -al",
    );
    let [walked, linked, stepped] = work.map(|sum| sum / rounds as f64);
    println!(
        "  processor time: walk {walked:.3} s, cp -al {linked:.3} s, the step {stepped:.3} s: {:.2}x of the walk, {:.2}x of cp -al",
        stepped / walked,
        stepped / linked
    );
    longer(&mut bench, &mut last, (walk, link), rounds);
    if std::env::var_os("STEPS_NO_RSYNC").is_none() {
        let (from, to) = (format!("{}/", root.display()), place.join("rsync"));
        let mut worked = false;
        let took =
            time(|| worked = run(&["rsync", "-aH", &from, to.to_str().unwrap()])).as_secs_f64();
        if worked {
            println!(
                "  rsync -aH {took:.1} s: a step is {:.0} times as fast (>= 25)",
                took / median(steps.clone())
            );
        } else {
            println!("  SKIP: rsync is not installed");
        }
        // Not part of what the next step waits for.
        run(&["sync", "-f", place.to_str().unwrap()]);
    }
    bench.store = open(place);
    let (after, [begin, _, commit]) = bench.step(&last, 10);
    of(
        "the first step after a restart",
        (begin + commit).as_secs_f64(),
        walk,
        link,
        "<= 2x the above",
    );
    switches(&mut bench, &after, walk, link);
    space(&mut bench, &after);
    let id = ResultId::of(b"1");
    println!("  delete returns in {:.1?} (<= 50 ms)", time(|| bench.store.delete(&id).unwrap()));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("  memory of the whole process so far: {peak}");
}

/// Steps that run for a while, during which their results are begun.
fn longer(bench: &mut Bench, last: &mut ResultId, (walk, link): (f64, f64), rounds: usize) {
    bench.lasts = Duration::from_secs_f64(4.0 * link);
    let mut waits = vec![];
    for _ in 0..rounds {
        let (id, [begin, _, commit]) = bench.step(last, 10);
        waits.push(begin + commit);
        *last = id;
    }
    bench.lasts = Duration::ZERO;
    of("from the end of a longer step to the next one", median(waits), walk, link, "<= 1.5x walk");
}

fn switches(bench: &mut Bench, on: &ResultId, walk: f64, link: f64) {
    let mut ends = [on.clone(), bench.step(on, 100).0];
    let (mut times, mut begins) = (vec![], vec![]);
    for round in 0..6 {
        let (id, [begin, _, commit]) = bench.step(&ends[round % 2], 10);
        times.push(begin + commit);
        begins.push(begin);
        ends[round % 2] = id;
    }
    println!("  begin on a result that differs in 100 files: {:.3} s", median(begins));
    of(
        "steps on two results in turns that differ in 100",
        median(times),
        walk,
        link,
        "<= 1.2x the above",
    );
}

fn space(bench: &mut Bench, on: &ResultId) {
    let tree = tree_copy::tree_size(&bench.rootfs(on)).unwrap().allocated;
    let dirs = stat_dirs(&bench.rootfs(on));
    let before = bench.used();
    let mut last = on.clone();
    for _ in 0..30 {
        last = bench.step(&last, 10).0;
    }
    let grown = (bench.used() - before) as f64;
    let expected = 30.0 * (dirs as f64 + 10.0 * 4096.0);
    let ratio = (tree as f64 + grown) / (tree as f64 + expected);
    println!(
        "  30 steps took {:.0} MB beside a tree of {:.0} MB: {ratio:.3}x tree, changes and directories (<= 1.02)",
        grown / 1e6,
        tree as f64 / 1e6
    );
}

/// Bytes that the directories of a tree take.
fn stat_dirs(root: &Path) -> u64 {
    let (mut bytes, mut dirs) = (0, vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        // With its inode, which is at least so large.
        bytes += fs::metadata(&dir).unwrap().blocks() * 512 + 512;
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    bytes
}

fn main() {
    let kinds: [(&str, &[&str]); 2] = [
        ("ext4", &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
        ("xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"]),
    ];
    let only = std::env::var("STEPS_ON").ok();
    for (name, mkfs) in kinds {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        match Loop::new(mkfs) {
            Some(place) => measure(name, &place.0),
            None => println!("SKIP: {name} on a loop device needs root and `{}`", mkfs[0]),
        }
    }
}
