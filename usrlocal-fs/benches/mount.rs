//! Figures of the mount over the plain directory and over bindfs, in turns in one run: `cargo bench -p usrlocal-fs`.
//!
//! A word after `--` chooses figures: `read`, `stat`, `find`, `tar`, `build`, `users`. Sizes are a fifth of the whole, unless `USRLOCAL_FS_FULL` is set.
//! Each figure ends after a minute and a half at the latest. Needs root and /dev/fuse; bindfs and a C compiler where they are used.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends where it cannot go on"
)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const USERS: [u32; 2] = [1_200_001, 1_200_002];
const ROUNDS: usize = 5;
const MEGABYTE: usize = 1 << 20;
/// How long one figure may take; the rounds that are over by then count.
const ENOUGH: Duration = Duration::from_secs(60);
/// How long one script may take.
const MOST_SECONDS: &str = "90";

/// A size, or the fifth of it that is the rule.
fn sized(full: usize) -> usize {
    if std::env::var_os("USRLOCAL_FS_FULL").is_some() { full } else { full / 5 }
}

/// Size of the file that is read and written.
fn file_size() -> usize {
    sized(320) * MEGABYTE
}

/// The three ways to the same trees.
struct Stage {
    dir: tempfile::TempDir,
    servers: Vec<Child>,
    ways: Vec<(&'static str, PathBuf)>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Command::new("chmod").arg("755").arg(dir.path()).status().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["scoreboard", "mnt", "mnt-plain", "mnt-same", "bind"] {
            fs::create_dir(at(name)).unwrap();
        }
        for user in USERS {
            let top = at(&format!("tree-{user}/local/top"));
            fs::create_dir_all(&top).unwrap();
            chown(&top, Some(user), Some(user)).unwrap();
            std::os::unix::fs::symlink(
                at(&format!("tree-{user}")),
                at(&format!("scoreboard/{user}")),
            )
            .unwrap();
        }
        let native = at(&format!("tree-{}/local/top", USERS[0]));
        let mut stage = Self { ways: vec![("native", native.clone())], dir, servers: Vec::new() };
        let ours = env!("CARGO_BIN_EXE_usrlocal-fs");
        stage.serve(ours, &["mount", "--scoreboard", "scoreboard", "mnt"], "mnt");
        stage.ways.push(("ours", stage.at("mnt/top")));
        stage.serve(
            ours,
            &["mount", "--scoreboard", "scoreboard", "--no-passthrough", "mnt-plain"],
            "mnt-plain",
        );
        stage.ways.push(("ours, no passthrough", stage.at("mnt-plain/top")));
        stage.serve(
            ours,
            &["mount", "--scoreboard", "scoreboard", "--same-top", "mnt-same"],
            "mnt-same",
        );
        stage.ways.push(("ours, same top", stage.at("mnt-same/top")));
        if Command::new("bindfs").arg("--version").stdout(Stdio::null()).status().is_ok() {
            stage.serve("bindfs", &["-f", native.to_str().unwrap(), "bind"], "bind");
            stage.ways.push(("bindfs", stage.at("bind")));
        } else {
            println!("SKIP: bindfs is not installed, so nothing is compared with it");
        }
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&mut self, program: &str, arguments: &[&str], mount: &str) {
        let child =
            Command::new(program).args(arguments).current_dir(self.dir.path()).spawn().unwrap();
        self.servers.push(child);
        let mount = self.at(mount);
        let begun = Instant::now();
        let mounted = || {
            fs::read_to_string("/proc/self/mountinfo").unwrap().contains(mount.to_str().unwrap())
        };
        while !mounted() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{program} does not mount");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Measures `work` in every way in turns and prints medians and ratios.
    fn compare(&self, figure: &str, work: impl Fn(&Path) -> Duration + Sync) {
        let mut times = vec![Vec::new(); self.ways.len()];
        let begun = Instant::now();
        let mut rounds = 0;
        while rounds == 0 || (rounds < ROUNDS && begun.elapsed() < ENOUGH) {
            for ((_, path), times) in self.ways.iter().zip(&mut times) {
                times.push(as_user(USERS[0], || work(path)));
            }
            rounds += 1;
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        println!("{figure} ({rounds} rounds)");
        let bindfs = self.ways.iter().position(|(name, _)| *name == "bindfs");
        for ((name, _), time) in self.ways.iter().zip(&medians) {
            let over = bindfs.map_or_else(
                || "   SKIP".into(),
                |bindfs| format!("{:7.2}", time / medians[bindfs]),
            );
            println!(
                "  {name:22} {:9.1} ms  {:6.2} of native's time {over} of bindfs's",
                time * 1e3,
                time / medians[0]
            );
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for mount in ["mnt", "mnt-plain", "mnt-same", "bind"] {
            let _ =
                Command::new("umount").arg("-l").arg(self.at(mount)).stderr(Stdio::null()).status();
        }
        for server in &mut self.servers {
            thread::sleep(Duration::from_millis(200));
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// Runs `work` in a thread with the file rights of a user.
fn as_user<T: Send>(user: u32, work: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: plain numbers, and they concern this thread alone.
        unsafe {
            libc::setfsgid(user);
            libc::setfsuid(user);
        }
        work()
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn drop_caches() {
    Command::new("sync").status().unwrap();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Runs a script as a user.
fn script_of(user: u32, dir: &Path, text: &str) -> Child {
    let mut command = Command::new("timeout");
    command
        .args([MOST_SECONDS, "/bin/sh", "-euc", text])
        .current_dir("/")
        .env("D", dir)
        .uid(user)
        .gid(user);
    command.stdin(Stdio::null()).spawn().unwrap()
}

fn run(user: u32, dir: &Path, text: &str) -> Duration {
    timed(|| assert!(script_of(user, dir, text).wait().unwrap().success()))
}

fn reading(stage: &Stage) {
    as_user(USERS[0], || fs::write(stage.ways[0].1.join("big"), vec![7u8; file_size()])).unwrap();
    let sequential = |path: &Path| {
        let file = File::open(path.join("big")).unwrap();
        let mut room = vec![0; MEGABYTE];
        timed(|| {
            (0..file_size() / MEGABYTE)
                .for_each(|at| file.read_exact_at(&mut room, (at * MEGABYTE) as u64).unwrap())
        })
    };
    stage.compare("sequential reads, warm, 1 MiB each", sequential);
    stage.compare("sequential reads, cold", |path| {
        as_user(0, drop_caches);
        sequential(path)
    });
    stage.compare("50,000 random reads of 4 KiB, warm", |path| {
        let file = File::open(path.join("big")).unwrap();
        let mut room = vec![0; 4096];
        let (mut at, pages) = (1usize, file_size() / 4096);
        timed(|| {
            for _ in 0..50_000 {
                at = at
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                file.read_exact_at(&mut room, ((at >> 20) % (pages) * 4096) as u64).unwrap();
            }
        })
    });
    stage.compare("sequential writes, 1 MiB each", |path| {
        let _ = fs::remove_file(path.join("written"));
        Command::new("sync").status().unwrap();
        let file = File::create(path.join("written")).unwrap();
        let room = vec![1; MEGABYTE];
        timed(|| {
            (0..file_size() / MEGABYTE)
                .for_each(|at| file.write_all_at(&room, (at * MEGABYTE) as u64).unwrap())
        })
    });
    let _ = fs::remove_file(stage.ways[0].1.join("written"));
    let _ = fs::remove_file(stage.ways[0].1.join("big"));
}

/// Files four levels deep, 100,000 in full.
fn forest(stage: &Stage) -> Vec<String> {
    let mut paths = Vec::new();
    let root = &stage.ways[0].1;
    as_user(USERS[0], || {
        for (one, two, three) in
            (0..10).flat_map(|a| (0..10).flat_map(move |b| (0..10).map(move |c| (a, b, c))))
        {
            let dir = format!("forest/d{one}/d{two}/d{three}");
            fs::create_dir_all(root.join(&dir)).unwrap();
            for file in 0..sized(100) {
                let path = format!("{dir}/f{file}");
                File::create(root.join(&path)).unwrap();
                paths.push(path);
            }
        }
    });
    paths
}

fn looking(stage: &Stage, paths: &[String]) {
    let count = paths.len();
    let look = |root: &Path| {
        let paths: Vec<_> = paths.iter().map(|path| root.join(path)).collect();
        paths.iter().for_each(|path| assert!(fs::symlink_metadata(path).is_ok()));
        timed(|| paths.iter().for_each(|path| assert!(fs::symlink_metadata(path).is_ok())))
    };
    stage.compare(&format!("stat of {count} paths, repeated, each from `/`"), look);
    let figure = format!("stat of {count} paths, repeated, from a directory in the mount");
    stage.compare(&figure, |root| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let dir = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).unwrap();
        let look = || {
            paths.iter().for_each(|path| {
                rustix::fs::statat(&dir, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
            })
        };
        look();
        timed(look)
    });
}

fn finding(stage: &Stage, count: usize) {
    let script = format!("test $(find $D/forest -type f -size -1000 | wc -l) = {count}");
    let find = |root: &Path| run(USERS[0], root, &script);
    stage.compare(&format!("find with sizes over {count} files, warm"), |root| {
        find(root);
        find(root)
    });
    stage.compare(&format!("find with sizes over {count} files, cold"), |root| {
        as_user(0, drop_caches);
        find(root)
    });
}

fn unpacking(stage: &Stage) {
    let root = &stage.ways[0].1;
    let dirs = sized(200);
    let make = format!(
        "mkdir $D/many; cd $D/many; for d in $(seq {dirs}); do mkdir $d; for f in $(seq 100); do echo $d $f > $d/$f; done; done; tar -C $D -cf $D/many.tar many; rm -rf $D/many"
    );
    run(USERS[0], root, &make);
    stage.compare(&format!("tar x of {} small files", dirs * 100), |root| {
        let took = run(USERS[0], root, "mkdir $D/out; tar -C $D/out -xf $D/many.tar");
        run(USERS[0], root, "rm -rf $D/out");
        took
    });
    let _ = fs::remove_file(root.join("many.tar"));
}

/// Compiles the sources of the numbers from one to `last`.
fn build(last: usize) -> String {
    format!("cd $D/src; for n in $(seq {last}); do cc -I$D/include -c -o /dev/null f$n.c; done")
}

/// Sources and headers in both users' trees; says whether there is a compiler.
fn sources(stage: &Stage) -> bool {
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIP: no C compiler is installed");
        return false;
    }
    for user in USERS {
        let root = stage.at(&format!("tree-{user}/local/top"));
        let make = "mkdir -p $D/src $D/include/lib; cd $D; for n in $(seq 40); do echo \"int v$n; static inline int g$n(int x) { return x + $n; }\" > include/lib/h$n.h; done
            for n in $(seq 300); do for h in $(seq 40); do echo \"#include <lib/h$h.h>\"; done > src/f$n.c; echo \"#include <stdio.h>\nint f$n(void) { return g1($n); }\" >> src/f$n.c; done";
        run(user, &root, make);
    }
    true
}

fn building(stage: &Stage) {
    let files = sized(300);
    let figure = format!("C build of {files} files with headers and sources in the mount");
    let script = build(files);
    stage.compare(&figure, |root| run(USERS[0], root, &script));
}

fn users(stage: &Stage) {
    let script = build(sized(150));
    let ways =
        [("native", None), ("ours", Some("mnt/top")), ("ours, same top", Some("mnt-same/top"))];
    for (name, mount) in ways {
        let tree = |user: u32| stage.at(&format!("tree-{user}/local/top"));
        let dir = |user: u32| mount.map_or_else(|| tree(user), |mount| stage.at(mount));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while one.is_empty() || (one.len() < ROUNDS && begun.elapsed() < ENOUGH) {
            one.push(run(USERS[0], &dir(USERS[0]), &script));
            two.push(timed(|| {
                let both = USERS.map(|user| script_of(user, &dir(user), &script));
                both.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
            }));
        }
        let throughput = 2.0 * median(one) / median(two);
        println!("two users building at once, {name}: {throughput:.2} times the throughput of one");
    }
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen =
        |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("SKIP: mounting needs root and /dev/fuse");
        return;
    }
    let stage = Stage::new();
    if chosen("read") {
        reading(&stage);
    }
    if (chosen("build") || chosen("users")) && sources(&stage) {
        if chosen("build") {
            building(&stage);
        }
        if chosen("users") {
            users(&stage);
        }
    }
    if chosen("tar") {
        unpacking(&stage);
    }
    if chosen("stat") || chosen("find") {
        let paths = forest(&stage);
        if chosen("stat") {
            looking(&stage, &paths);
        }
        if chosen("find") {
            finding(&stage, paths.len());
        }
    }
}
