//! The program itself, with a store, a state directory and (as root) build users that no other test has.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ocluster::cap_file;
use ocluster::testing::Scheduler;
use tempfile::TempDir;

use crate::uid::{self, UidLease};

/// Where a worker lives; it outlives its runs.
pub struct Place {
    dir: TempDir,
    uid: UidLease,
    slots: u32,
}

impl Place {
    pub fn new(scheduler: &Scheduler, slots: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("obuild-worker-test-").tempdir().unwrap();
        // The build user must be able to walk through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        cap_file::write(&dir.path().join("pool.cap"), scheduler.registration()).unwrap();
        Self { dir, uid: UidLease::take(slots), slots }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command that works here as `w1`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obuild-worker"));
        let store = format!("rsync:{}", self.path("store").display());
        if !args.contains(&"--obuilder-store") {
            command.args(["--obuilder-store", &store]);
        }
        command
            .args(["--connect".as_ref(), self.path("pool.cap").as_os_str()])
            .args(["--name", "w1", "--max-reconnect-time", "1s"])
            .args(["--user-prefix", uid::PREFIX])
            .args(["--uid", &self.uid.number().to_string(), "--slots", &self.slots.to_string()])
            .args(["--state-dir".as_ref(), self.path("state").as_os_str()])
            .args(args)
            .env_clear()
            .env(
                "PATH",
                format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap()),
            )
            .env("HOME", self.path("home"));
        for flag in ["--obuilder-healthcheck", "--obuilder-prune-threshold"] {
            if !args.contains(&flag) {
                command.args([flag, "0"]);
            }
        }
        command
    }

    /// Starts a worker.
    pub fn start(&self, args: &[&str]) -> Worker {
        self.start_with(args, &[])
    }

    /// Starts a worker with these variables besides.
    pub fn start_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Worker {
        let log = self.path("worker.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(args);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null());
        Worker { child: command.stderr(file).spawn().unwrap(), log }
    }

    /// The number of its first build user.
    pub fn uid(&self) -> u32 {
        self.uid.number()
    }

    /// What runs as this place's build users.
    pub fn processes(&self) -> Vec<String> {
        self.uid.processes()
    }

    /// Names of files in a directory here.
    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Bytes that files here take on disk.
    pub fn bytes(&self, name: &str) -> u64 {
        fn of(path: &Path) -> u64 {
            let below = fs::read_dir(path).into_iter().flatten().flatten();
            let own = fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
            own + below.map(|entry| of(&entry.path())).sum::<u64>()
        }
        of(&self.path(name))
    }

    /// What builds or jobs have left in the directories that are theirs while they run.
    pub fn left_over(&self) -> Vec<String> {
        let dirs = [
            "store/result-tmp",
            "store/cache-tmp",
            "store/home",
            "state/logs",
            "state/git/contexts",
        ];
        let each = |dir: &str| {
            self.names(dir).into_iter().map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
        };
        dirs.into_iter().flat_map(each).collect()
    }

    /// How many files there are besides what a store keeps: results, logs of failed steps, warm trees.
    pub fn files(&self) -> usize {
        fn below(dir: &Path) -> usize {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let count = |entry: fs::DirEntry| match entry.file_type() {
                Ok(kind) if kind.is_dir() => 1 + below(&entry.path()),
                _ => 1,
            };
            entries.map(count).sum()
        }
        let kept = ["store/result", "store/state/failed-logs", "store/warm"];
        below(self.dir.path()) - kept.map(|name| below(&self.path(name))).iter().sum::<usize>()
    }

    /// Asserts that nothing is left behind by builds or jobs.
    pub fn assert_clean(&self) {
        assert_eq!(self.left_over(), [""; 0], "left behind");
        assert_eq!(self.processes(), [""; 0], "left running");
    }
}

/// A running worker, killed when dropped.
pub struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits, for a bounded time, until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the worker does not end; it says:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it has traced.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Open descriptors, where `/proc` tells.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(Path::new("/proc").join(self.pid().to_string()).join("fd"))
            .map_or(0, Iterator::count)
    }

    /// Threads, where `/proc` tells.
    pub fn threads(&self) -> usize {
        fs::read_dir(Path::new("/proc").join(self.pid().to_string()).join("task"))
            .map_or(0, Iterator::count)
    }

    /// How often each of its threads has gone to sleep and been woken, where `/proc` tells.
    pub fn switches(&self) -> HashMap<PathBuf, u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten();
        let of = |path: &Path| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        tasks.flatten().map(|task| (task.path(), of(&task.path()))).collect()
    }

    /// Bytes of memory in use, where `/proc` tells.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the worker said:\n{}", self.said());
        }
    }
}
