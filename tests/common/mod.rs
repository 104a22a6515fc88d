//! What every end-to-end test needs: a world of its own for the real binary, removed afterwards whatever happens.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "macos/mod.rs"]
mod platform;

pub mod pool;
pub mod registry;
pub mod running;
pub mod ten;
pub mod trees;
pub mod uid;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

#[allow(unused_imports)]
pub use platform::volume::Volume;
pub use running::{Finished, Running};
use uid::UidLease;

/// Nothing here takes longer, even on a busy machine; what does, hangs.
pub const BOUND: Duration = Duration::from_secs(120);

/// A store, images, a home and (as root) a build user that no other test has.
pub struct World {
    dir: TempDir,
    uid: UidLease,
    slots: u32,
    /// The store, where this test program wants pools.
    pub pool: Option<pool::Pool>,
}

impl World {
    pub fn new() -> Self {
        Self::with_slots(1)
    }

    /// One with several build users.
    pub fn with_slots(slots: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("obuild-test-").tempdir().unwrap();
        // The build user must be able to walk through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["context", "images", "user"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("config.toml"), "").unwrap();
        let pool = pool::wanted().then(|| pool::Pool::new(dir.path())).flatten();
        Self { dir, uid: UidLease::take(slots), slots, pool }
    }

    /// One whose steps see the files of its tests, which with a view of their own they would not.
    pub fn without_views() -> Self {
        let world = Self::new();
        world.write("config.toml", "isolation = \"users\"\n");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The build user's number.
    pub fn uid(&self) -> u32 {
        self.uid.number()
    }

    pub fn store(&self) -> PathBuf {
        self.pool.as_ref().map_or_else(|| self.path("store"), |pool| pool.root.clone())
    }

    /// Writes a file below the world, with its directories.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes `context/spec.scm`.
    pub fn spec(&self, text: &str) -> PathBuf {
        self.write("context/spec.scm", text)
    }

    /// The command with this world's settings in its environment, and nothing of the caller's.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obuild"));
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let rsync = || format!("rsync:{}", self.store().display());
        command
            .args(args)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("user"))
            .env("OBUILD_CONFIG", self.path("config.toml"))
            .env("OBUILD_STORE", self.pool.as_ref().map_or_else(rsync, pool::Pool::url))
            .env("OBUILD_IMAGES", self.path("images"))
            .env("OBUILD_LAYERS", self.path("layers"))
            .env("OBUILD_PULL", "never")
            .env("OBUILD_UID", self.uid.number().to_string())
            .env("OBUILD_USER_PREFIX", uid::PREFIX)
            .env("OBUILD_SLOTS", self.slots.to_string())
            .env("OBUILD_PROGRESS", "plain")
            .current_dir(self.path("context"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        Running::start(self.command(args)).finish()
    }

    /// Starts the command.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        Running::start(self.command(args))
    }

    /// Builds `text` as `context/spec.scm`.
    pub fn build(&self, text: &str) -> Finished {
        self.run([OsStr::new("build"), self.spec(text).as_os_str()])
    }

    /// Builds `text`, which must succeed; gives the id of the result.
    pub fn build_ok(&self, text: &str) -> String {
        self.build(text).success().got()
    }

    /// A file of a result.
    pub fn result_file(&self, id: &str, name: &str) -> PathBuf {
        self.store().join("result").join(id).join("rootfs").join(name)
    }

    /// What runs as this world's build users.
    pub fn processes(&self) -> Vec<String> {
        self.uid.processes()
    }

    /// Asserts that no build has left anything behind: no half-made result, no home, no process, no secret.
    pub fn assert_clean(&self) {
        for dir in ["result-tmp", "cache-tmp", "home"] {
            let left = names(&self.store().join(dir));
            assert!(left.is_empty(), "left in {dir}: {left:?}");
        }
        let locks = names(&self.store().join("state/locks"));
        assert!(locks.is_empty(), "left in locks: {locks:?}");
        if let Some(pool) = &self.pool {
            let begun = std::time::Instant::now();
            while !pool.leftovers().is_empty() {
                assert!(begun.elapsed() < BOUND, "left: {:?}", pool.leftovers());
                std::thread::sleep(Duration::from_millis(20));
                // What has no time to go before a process ends goes with the next one.
                self.run(["ls"]).success();
            }
        }
        let mut processes = self.uid.processes();
        processes.extend(at_home(&self.store().join("home")));
        assert!(processes.is_empty(), "left running: {processes:?}");
    }
}

/// What runs with `home` as its home, where `/proc` tells.
fn at_home(home: &Path) -> Vec<String> {
    let wanted = format!("HOME={}", home.display());
    let lives_there = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let pids = names(Path::new("/proc")).into_iter();
    pids.filter(|name| name.parse::<u32>().is_ok()).filter(lives_there).collect()
}

/// Names in a directory, none if it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether this is root; if not, says what is skipped.
pub fn root_or_skip(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(&format!("{what} needs root"));
    }
    root
}

/// Says something past whatever captures the output of tests, such as how to run the same again.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says that a test is skipped, past whatever captures the output of tests.
pub fn skip(why: &str) {
    tell(&format!("SKIP: {why}"));
}
