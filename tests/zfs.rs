//! Builds with a ZFS store: on real ZFS where there is some (see `tests/zfs-vm`), else on a stand-in for the command `zfs`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Finished, Running, World};

/// A world whose store is a pool of its own.
struct PoolWorld {
    world: World,
    /// Its name, and where it is mounted.
    pool: String,
    root: PathBuf,
    real: bool,
}

/// The stand-in is built beside the tests when the whole workspace is.
fn stand_in() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_obuild")).with_file_name("examples/zfs-stand-in");
    if !built.exists() {
        eprintln!(
            "SKIP: `{}` is not built; `cargo build --workspace --examples` does",
            built.display()
        );
        return None;
    }
    Some(built)
}

impl PoolWorld {
    fn new() -> Option<Self> {
        Self::with(World::new())
    }

    fn with(world: World) -> Option<Self> {
        if let Ok(parent) = std::env::var("OBUILD_TEST_ZFS") {
            let name = world.path("").file_name().unwrap().to_string_lossy().into_owned();
            let pool = format!("{parent}/{name}");
            let root = Path::new("/").join(&pool);
            let made = Self { world, pool, root, real: true };
            made.zfs("create POOL");
            return Some(made);
        }
        let (program, state) = (stand_in()?, world.path("state"));
        fs::create_dir(&state).unwrap();
        let text =
            format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", program.display(), state.display());
        let zfs = world.write("bin/zfs", text);
        fs::set_permissions(zfs, fs::Permissions::from_mode(0o755)).unwrap();
        let root = world.path("tank");
        let made = Self { pool: "tank".to_owned(), root, real: false, world };
        made.zfs(&format!("make tank {}", made.root.display()));
        Some(made)
    }

    fn program(&self) -> PathBuf {
        if self.real { "zfs".into() } else { self.world.path("bin/zfs") }
    }

    fn zfs(&self, line: &str) -> String {
        let line = line.replace("POOL", &self.pool);
        let output = Command::new(self.program()).args(line.split_whitespace()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "zfs {line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        let mut path = OsString::from(self.world.path("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let store = if self.real { self.pool.clone() } else { self.root.display().to_string() };
        command.env("PATH", path).env("OBUILD_STORE", format!("zfs:{store}"));
        command
    }

    fn run(&self, args: &[&str]) -> Finished {
        Running::start(self.command(args)).finish()
    }

    fn build(&self, text: &str) -> Finished {
        self.run(&["build", self.world.spec(text).to_str().unwrap()])
    }

    /// Names of the datasets and snapshots in the pool's dataset `group`.
    fn names(&self, group: &str) -> Vec<String> {
        let listed = self.zfs(&format!("list -Hp -r -t filesystem,snapshot -o name POOL/{group}"));
        let prefix = format!("{}/{group}/", self.pool);
        listed.lines().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// Nothing half-made, nothing deleted that is still there, nothing mounted, no home.
    fn assert_tidy(&self) {
        let begun = Instant::now();
        let left = || ["result-tmp", "cache-tmp", "trash"].map(|group| self.names(group)).concat();
        while !left().is_empty() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(left(), [""; 0]);
        let mounted = self.zfs("list -Hp -r -t filesystem -o name,mounted POOL");
        let kept = |line: &&str| {
            line.ends_with("\tyes")
                && line.matches('/').count() > 1 + self.pool.matches('/').count()
        };
        assert_eq!(mounted.lines().find(kept), None, "{mounted}");
        assert!(!self.root.join("home").exists());
    }
}

impl Drop for PoolWorld {
    fn drop(&mut self) {
        if self.real {
            let gone = Command::new("zfs").args(["destroy", "-R", "-f", &self.pool]).status();
            if !gone.is_ok_and(|status| status.success()) {
                eprintln!("failed to destroy {}", self.pool);
            }
        }
    }
}

macro_rules! pool_world {
    () => {
        match PoolWorld::new() {
            Some(made) => made,
            None => return,
        }
    };
}

#[test]
fn steps_stand_on_each_other_and_are_cached() {
    let it = pool_world!();
    let first = "(run (shell \"mkdir -p sub; echo one > sub/file; pwd\"))";
    let second = "(run (shell \"cat sub/file; echo two >> sub/file\"))";
    let spec = |last: &str| format!("((from scratch) {first} {second} {last})");
    let built = it.build(&spec("(run (shell \"cat sub/file\"))")).success();
    assert!(built.stderr.contains("one\n") || built.stdout.contains("one\n"), "{built:#?}");
    let again = it.build(&spec("(run (shell \"cat sub/file\"))")).success();
    assert_eq!(again.got(), built.got());
    it.run(&["log", &again.got()]).success().prints("one\ntwo\n");
    it.assert_tidy();
    // A base and three steps, each with its snapshot.
    let snapshots = it.names("result").iter().filter(|name| name.ends_with("@snap")).count();
    assert!(snapshots >= 4, "{:?}", it.names("result"));
    it.run(&["ls"]).success().prints("(run (shell \"cat sub/file\"))");
}

#[test]
fn a_copy_takes_files_from_the_context_and_from_another_build() {
    let it = pool_world!();
    it.world.write("context/given", "given\n");
    let spec = "((build inner ((from scratch) (run (shell \"echo made > made\"))))
                 (from scratch)
                 (copy (src given) (dst /here/))
                 (copy (from (build inner)) (src made) (dst /))
                 (run (shell \"cat here/given made\")))";
    let built = it.build(spec).success();
    it.run(&["log", &built.got()]).success().prints("given\nmade\n");
    it.assert_tidy();
}

#[test]
fn caches_and_secrets_are_shown_and_leave_no_trace() {
    let it = pool_world!();
    let secret = it.world.write("secret", "hidden\n");
    let secret = format!("s:{}", secret.display());
    let step = |n: u32| {
        format!(
            "(run (cache (c (target cached))) (secrets (s (target /there/secret)))
                  (shell \"cat cached/* 2>/dev/null; echo {n} > cached/{n}; wc -c < there/secret\"))"
        )
    };
    let list = "(run (shell \"ls -A . cached; cat there/secret\"))";
    let prepare =
        "(run (shell \"mkdir there cached; echo own > there/secret; echo own > cached/own\"))";
    let spec = format!("((from scratch) {prepare} {} {} {list})", step(1), step(2));
    let spec = it.world.spec(&spec);
    let built = it.run(&["build", "--secret", &secret, spec.to_str().unwrap()]).success();
    let log = it.run(&["log", &built.got()]).success();
    assert_eq!(log.stdout, ".:\ncached\nthere\n\ncached:\nown\nown\n");
    assert_eq!(it.names("cache"), ["c-c", "c-c@snap"]);
    it.assert_tidy();
}

#[test]
fn several_steps_run_at_once_each_in_a_dataset_of_its_own() {
    let Some(it) = PoolWorld::with(World::with_slots(2)) else { return };
    let inner = |name: &str| {
        format!(
            "(build {name} ((from scratch)
              (run (cache (c (target cached))) (shell \"pwd; echo {name} > cached/{name}; echo {name} > made\"))))"
        )
    };
    let copy = |name: &str| format!("(copy (from (build {name})) (src made) (dst /{name}))");
    let (first, second) = (inner("first"), inner("second"));
    let (copies, show) =
        ([copy("first"), copy("second")].concat(), "(run (shell \"cat first second\"))");
    let built = it.build(&format!("({first} {second} (from scratch) {copies} {show})")).success();
    it.run(&["log", &built.got()]).success().prints("first\nsecond\n");
    it.assert_tidy();
}

#[test]
fn a_failed_step_leaves_nothing_or_its_kept_tree() {
    let it = pool_world!();
    let spec = "((from scratch) (run (shell \"echo x > file; exit 3\")))";
    it.build(spec).code(1).says("exit status 3");
    it.assert_tidy();
    let path = it.world.spec(spec);
    it.run(&["build", "--keep-failed", path.to_str().unwrap()]).code(1);
    assert_eq!(
        it.names("failed")
            .iter()
            .filter(|name| name.ends_with("@snap") && !name.contains('/'))
            .count(),
        1
    );
    it.assert_tidy();
    it.run(&["clean"]).success();
    assert_eq!(it.names("failed"), [""; 0]);
    assert_eq!(it.names("result"), [""; 0]);
    it.assert_tidy();
}

#[test]
fn what_a_killed_build_leaves_is_swept_by_the_next() {
    let it = pool_world!();
    let spec = it.world.spec(
        "((from scratch) (run (cache (c (target cached))) (shell \"touch ready; sleep 1000\")))",
    );
    let mut child = it.command(&["build", spec.to_str().unwrap()]).spawn().unwrap();
    let (begun, ready) = (Instant::now(), it.root.join("home/ready"));
    while !ready.exists() {
        assert!(begun.elapsed() < common::BOUND, "the step has not begun");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!it.names("result-tmp").is_empty() && !it.names("cache-tmp").is_empty());
    it.build("((from scratch) (run (shell \"echo fine\")))").success();
    it.run(&["ls"]).success();
    it.assert_tidy();
}

#[test]
fn a_base_image_of_the_pool_is_imported_and_followed() {
    let it = pool_world!();
    it.zfs("create POOL/base-image");
    it.zfs("create -o canmount=noauto POOL/base-image/mac");
    let image = |text: &str| {
        it.zfs(&format!("create POOL/base-image/mac/{}", "home"));
        fs::write(it.root.join("base-image/mac/home/file"), text).unwrap();
        it.zfs("snapshot POOL/base-image/mac@snap POOL/base-image/mac/home@snap");
        it.zfs("unmount POOL/base-image/mac/home");
    };
    image("first\n");
    let spec = "((from mac) (run (shell \"cat file\")))";
    let first = it.build(spec).success().got();
    it.run(&["log", &first]).success().prints("first\n");
    it.zfs("destroy -r POOL/base-image/mac");
    it.zfs("create -o canmount=noauto POOL/base-image/mac");
    image("second\n");
    let second = it.build(spec).success().says("has changed").got();
    it.run(&["log", &second]).success().prints("second\n");
    it.build("((from nowhere))").code(2).says("nowhere").says("mac");
    it.assert_tidy();
}

#[test]
fn deleting_and_collecting_make_room() {
    let it = pool_world!();
    let spec = "((from scratch) (run (shell \"head -c 3000000 /dev/urandom > big\")))";
    let id = it.build(spec).success().got();
    let collected = it.run(&["gc", "--dry-run", "--max-size", "1M"]).success();
    assert!(collected.stdout.contains(&format!("would delete {}", &id[..12])), "{collected:#?}");
    it.run(&["delete", &id]).success().prints(&id);
    assert!(!it.names("result").iter().any(|name| name.starts_with(&id)));
    it.run(&["gc", "--max-size", "0"]).success();
    assert_eq!(it.names("result"), [""; 0]);
    it.assert_tidy();
}

#[test]
fn a_pool_that_is_not_there_is_said_with_what_to_do() {
    let it = pool_world!();
    let mut command = it.command(&["ls"]);
    command.env("OBUILD_STORE", "zfs:no-such-pool");
    Running::start(command).finish().code(3).says("no-such-pool").says("zpool create");
    let mut command = it.command(&["ls"]);
    command.env("PATH", "/nowhere");
    Running::start(command).finish().code(3).says("cannot be run").says("install OpenZFS");
}
