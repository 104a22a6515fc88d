//! Builds with a ZFS store: on real ZFS where there is some (see `tests/zfs-vm`), else on a stand-in for the command `zfs`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::pool::Pool;
use common::{Finished, Running, World};

/// A world whose store is a pool of its own.
struct PoolWorld {
    world: World,
    /// Where the pool is mounted.
    root: PathBuf,
}

impl PoolWorld {
    fn new() -> Option<Self> {
        Self::with(World::new())
    }

    fn with(world: World) -> Option<Self> {
        let root = world.pool.as_ref()?.root.clone();
        Some(Self { world, root })
    }

    fn pool(&self) -> &Pool {
        self.world.pool.as_ref().unwrap()
    }

    fn zfs(&self, line: &str) -> String {
        self.pool().zfs(line)
    }

    fn command(&self, args: &[&str]) -> Command {
        self.world.command(args)
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.world.run(args)
    }

    fn build(&self, text: &str) -> Finished {
        self.world.build(text)
    }

    fn names(&self, group: &str) -> Vec<String> {
        self.pool().names(group)
    }

    /// Nothing half-made, nothing deleted that is still there, nothing mounted, nothing in the home.
    fn assert_tidy(&self) {
        self.world.assert_clean();
        let mounted = self.zfs("list -Hp -r -t filesystem -o name,mounted POOL");
        let depth = 1 + self.pool().name.matches('/').count();
        let kept = |line: &&str| line.ends_with("\tyes") && line.matches('/').count() > depth;
        assert_eq!(mounted.lines().find(kept), None, "{mounted}");
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
    let made = [it.names("result-tmp"), it.pool().unfinished()].concat();
    assert!(!made.is_empty() && !it.names("cache-tmp").is_empty());
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
    // What is made of it is a clone.
    it.zfs("rename POOL/base-image/mac POOL/base-image/before");
    it.zfs("create -o canmount=noauto POOL/base-image/mac");
    image("second\n");
    let second = it.build(spec).success().says("`mac` has changed: it and").got();
    it.run(&["log", &second]).success().prints("second\n");
    let begun = Instant::now();
    while !it.pool().try_zfs("destroy -r POOL/base-image/before").status.success() {
        assert!(begun.elapsed() < common::BOUND, "what was made of the old image is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
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

/// When nothing can be written any more, not even the lock that every opening of the store holds.
#[test]
fn room_is_made_in_a_full_pool() {
    let it = pool_world!();
    if !it.pool().is_real() {
        return common::skip("the stand-in's pool has all the room of its volume");
    }
    let build =
        || it.build("((from scratch) (run (shell \"head -c 3000000 /dev/urandom > big\")))");
    build().success();
    it.zfs("set quota=48M POOL");
    let available = || it.zfs("list -Hp -o available POOL").trim().parse::<u64>().unwrap();
    let (begun, filler) = (Instant::now(), it.root.join("filler"));
    let mut file = fs::File::create(&filler).unwrap();
    while available() > 0 {
        assert!(begun.elapsed() < common::BOUND, "{} bytes are left", available());
        for size in [1 << 20, 4096] {
            let bytes = vec![7; size];
            while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
            file.sync_all().ok();
        }
    }
    it.run(&["gc", "--max-size", "0"]).success();
    assert_eq!(it.names("result"), [""; 0]);
    drop(file);
    fs::remove_file(&filler).unwrap();
    it.zfs("set quota=none POOL");
    build().success();
    it.assert_tidy();
}

#[test]
fn a_step_that_fills_the_pool_gives_its_room_back() {
    let it = pool_world!();
    if !it.pool().is_real() {
        return common::skip("the stand-in's pool has all the room of its volume");
    }
    it.build("((from scratch) (run (shell \"echo 1 > a\")))").success();
    it.zfs("set quota=32M POOL");
    let filling = "((from scratch) (run (shell \"dd if=/dev/zero of=big bs=1M count=200\")))";
    let failed = it.build(filling);
    assert!(!failed.status.success(), "{failed:#?}");
    let free = || it.zfs("list -Hp -o available POOL").trim().parse::<u64>().unwrap();
    let begun = Instant::now();
    while free() < 16 << 20 {
        assert!(begun.elapsed() < common::BOUND, "{} bytes: {:?}", free(), it.pool().leftovers());
        std::thread::sleep(Duration::from_millis(50));
    }
    it.build("((from scratch) (run (shell \"echo 2 > b\")))").success();
    it.assert_tidy();
}

#[test]
fn index_and_pool_are_proved_against_each_other() {
    let it = pool_world!();
    let spec = "((from scratch) (run (shell \"echo 1 > a\")) (run (cache (c (target c))) (shell \"cat a > b\")))";
    let id = it.build(spec).success().got();
    it.run(&["fsck"]).success().prints("3 results, all sound\n");
    it.run(&["fsck", "--digest"]).success().prints("took the digests of 3 results\n");
    it.run(&["fsck", "--digest"]).success().prints("3 results, all sound\n");
    let found_and_repaired = |what: &str| {
        it.run(&["fsck"]).code(1).prints(what).prints("; --repair would ");
        it.run(&["fsck", "--repair"]).code(1).prints(what).prints("; repaired: ");
        it.run(&["fsck"]).success().prints("all sound\n");
        it.build(spec).success();
    };
    let db = rusqlite::Connection::open(it.root.join("state/db/db.sqlite")).unwrap();
    db.execute_batch(&format!("PRAGMA foreign_keys = off; DELETE FROM builds WHERE id = '{id}'"))
        .unwrap();
    found_and_repaired("the index does not know it");
    it.zfs(&format!("destroy -r POOL/result/{id}"));
    found_and_repaired("the store does not have it");
    it.zfs("create -o canmount=noauto POOL/result-tmp/1-0123abcd-2");
    found_and_repaired("was left by a process that was killed");
    it.zfs(&format!("create -o canmount=noauto POOL/result/{}", "0".repeat(64)));
    found_and_repaired("it was never finished");
    it.assert_tidy();
}

/// Several slots, shown by the filesystem.
#[test]
fn steps_of_several_slots_are_shown_by_fuse() {
    if !common::root_or_skip("a filesystem for build users") {
        return;
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        return common::skip("there is no /dev/fuse");
    }
    let Some(it) = PoolWorld::with(World::with_slots(2)) else { return };
    let inner = |name: &str| {
        format!(
            "(build {name} ((from scratch)
              (run (cache (c (target cached))) (shell \"pwd > made; echo {name} >> made; echo {name} > cached/{name}; sleep 0.2\"))
              (run (shell \"cat made\"))))"
        )
    };
    let copy = |name: &str| format!("(copy (from (build {name})) (src made) (dst {name}))");
    let spec = it.world.spec(&format!(
        "({} {} (from scratch) {} {} (run (shell \"cat first second\")))",
        inner("first"),
        inner("second"),
        copy("first"),
        copy("second"),
    ));
    let text = format!("$O build {}; $O setup --remove", spec.display());
    let obuild = it.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "/bin/sh", "-ec", &text]).env_clear();
    command.envs(obuild.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("O", obuild.get_program()).env("OBUILD_FUSE", it.world.path("homes"));
    command.current_dir(it.world.path("context")).stdin(std::process::Stdio::null());
    let home = it.world.path("homes/users/builder");
    let told = |name: &str| format!("{}\n{name}\n", home.display());
    let built = Running::start(command).finish().success();
    built.prints(&(told("first") + &told("second")));
    it.assert_tidy();
}

#[test]
fn a_deletion_says_before_what_it_would_free() {
    let it = pool_world!();
    let spec = "((from scratch) (run (shell \"echo 1 > a\")) (run (shell \"head -c 3000000 /dev/urandom > big\")))";
    let id = it.build(spec).success().got();
    let size = || it.run(&["delete", "--dry-run", &id]).success().stdout;
    let begun = Instant::now();
    // ZFS counts what it has written a moment ago.
    while !size().contains("M") {
        assert!(begun.elapsed() < common::BOUND, "{}", size());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(size().starts_with(&format!("would delete {id} ")), "{}", size());
    it.run(&["ls"]).success().prints(&id[..12]);
    it.assert_tidy();
}

#[test]
fn a_pool_with_other_things_is_refused_with_what_to_do() {
    let it = pool_world!();
    it.zfs("create POOL/trash");
    it.run(&["ls"])
        .code(3)
        .says("/trash")
        .says("hint: name a dataset without such names for --store");
    it.zfs("destroy POOL/trash");
    it.run(&["ls"]).success();
    it.assert_tidy();
}

/// The tree that is kept is a clone of the result that its step began on.
#[test]
fn what_a_kept_tree_stands_on_is_said_to_free_nothing() {
    let it = pool_world!();
    let step = "(run (shell \"head -c 3000000 /dev/urandom > big\"))";
    let id = it.build(&format!("((from scratch) {step})")).success().got();
    let size = || it.run(&["delete", "--dry-run", &id]).success().stdout;
    let begun = Instant::now();
    while !size().contains("M") {
        assert!(begun.elapsed() < common::BOUND, "{}", size());
        std::thread::sleep(Duration::from_millis(50));
    }
    let spec = it.world.spec(&format!("((from scratch) {step} (run (shell \"exit 1\")))"));
    it.run(&["build", "--keep-failed", spec.to_str().unwrap()]).code(1);
    assert!(!size().contains("M"), "{}", size());
    it.run(&["delete", "--recursive", &id]).success();
    let told = it.run(&["gc", "--older-than", "300d"]).success().stdout;
    assert!(told.contains("deleted before, and shared with kept trees"), "{told}");
    it.run(&["clean"]).success();
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
