//! What it costs to make a durable result: `cargo bench -p store-rsync`.
//!
//! The store lies in `OBUILD_BENCH_DIR`, by default the directory for temporary files.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use obuilder_core::contracts::Base;
use obuilder_core::{ResultId, Store};
use store_rsync::{Mode, RsyncStore};

const ROUNDS: usize = 60;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn main() {
    let parent =
        std::env::var_os("OBUILD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let start = Instant::now();
    let store = RsyncStore::open(&dir.path().join("store"), Mode::Auto).unwrap();
    println!("open ({}) {:.3} ms", store.mode(), start.elapsed().as_secs_f64() * 1000.0);
    for files in [0, 10, 100] {
        results(&store, files);
    }
    floor(dir.path());
}

fn results(store: &RsyncStore, files: usize) {
    let (mut begins, mut commits, mut finds) = (Vec::new(), Vec::new(), Vec::new());
    let mut base: Option<ResultId> = None;
    for round in 0..ROUNDS {
        let id = ResultId::of(format!("{files} {round}").as_bytes());
        let start = Instant::now();
        let pending = store.begin(&id, base.as_ref().map_or(Base::Empty, Base::Result)).unwrap();
        begins.push(start.elapsed());
        fs::write(pending.dir().join("log"), "what the step printed\n").unwrap();
        if base.is_none() {
            for number in 0..files {
                fs::write(pending.dir().join(format!("rootfs/{number}")), "x").unwrap();
            }
        }
        let start = Instant::now();
        pending.commit().unwrap();
        commits.push(start.elapsed());
        let start = Instant::now();
        assert!(store.result(&id).unwrap().is_some());
        finds.push(start.elapsed());
        base = Some(id);
    }
    let (begin, commit, find) = (median(begins), median(commits), median(finds));
    println!("{files:>4} files: begin {begin:.3} ms, commit {commit:.3} ms, find {find:.3} ms");
}

/// What the disk itself asks for one durable change, to compare with.
fn floor(dir: &Path) {
    let times = |sync: &dyn Fn(&File)| {
        let one = |round: usize| {
            let path = dir.join(format!("floor-{round}"));
            fs::write(&path, "x").unwrap();
            let start = Instant::now();
            sync(&File::open(&path).unwrap());
            let took = start.elapsed();
            fs::remove_file(path).unwrap();
            took
        };
        median((0..ROUNDS).map(one).collect())
    };
    let fsync = times(&|file| file.sync_all().unwrap());
    let syncfs = times(&|file| rustix::fs::syncfs(file).unwrap());
    println!("fsync of a new file {fsync:.3} ms, syncfs after one {syncfs:.3} ms");
}
