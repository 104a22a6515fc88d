//! Secrets in what `obuild build` prints and keeps.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::World;
use tempfile::TempDir;

const SPEC: &str = "((from scratch) (run (secrets (token (target /run/token)))
    (shell \"echo it is $(cat $OBUILDER_SECRETS_DIR/token); base64 $OBUILDER_SECRETS_DIR/token\")))";
const SECRET: &str = "a very secret word";
const ENCODED: &str = "YSB2ZXJ5IHNlY3JldCB3b3Jk";

fn with_secret() -> (World, Vec<String>) {
    let world = World::new();
    let token = world.write("token", format!("{SECRET}\n"));
    let spec = world.spec(SPEC);
    let args = ["build", spec.to_str().unwrap(), "--secret"].map(str::to_owned);
    (world, [&args[..], &[format!("token:{}", token.display())]].concat())
}

/// Files of the store that hold `text`.
fn files_with(world: &World, text: &str) -> String {
    let grep = Command::new("grep").args(["-r", "-a", "-l", text]).arg(world.store()).output();
    String::from_utf8(grep.unwrap().stdout).unwrap()
}

#[test]
fn a_secret_is_hidden_in_every_log() {
    let (world, args) = with_secret();
    for style in ["plain", "json", "tty"] {
        let mut args = args.clone();
        args.extend(["--no-cache".to_owned(), format!("--progress={style}")]);
        let built = world.run(args).success();
        // Without a terminal, `tty` shows the steps alone.
        assert!(style == "tty" || built.stdout.contains("it is ***"), "{built:#?}");
        for text in [SECRET, ENCODED] {
            assert!(!format!("{built:?}").contains(text), "{style}: {built:#?}");
        }
    }
    let built = world.run(&args).success().prints("it is ***\n***");
    world.run(["log", &built.got()]).success().prints("it is ***\n***");
    assert_eq!((files_with(&world, SECRET), files_with(&world, ENCODED)), Default::default());
    world.assert_clean();
}

#[test]
fn a_failing_step_keeps_no_secret_either() {
    let (world, mut args) = with_secret();
    world.spec(&SPEC.replace("base64", "exit 3; base64"));
    args.push("--keep-failed".to_owned());
    let failed = world.run(&args).code(1).prints("it is ***\n");
    assert!(!format!("{failed:?}").contains(SECRET), "{failed:#?}");
    assert_eq!(files_with(&world, SECRET), "");
}

#[test]
fn a_secret_is_shown_on_demand() {
    let (world, args) = with_secret();
    let shown = [&args[..], &["--no-redact".to_owned()]].concat();
    let built = world.run(&shown).success().prints(&format!("it is {SECRET}\n{ENCODED}"));
    world.run(["log", &built.got()]).success().prints(SECRET);
    // What was kept then is hidden from a build that does not ask for it.
    world.run(&args).success().prints("it is ***\n***").prints_not(SECRET);
}

#[test]
fn a_short_secret_is_warned_of() {
    let (world, args) = with_secret();
    world.write("token", "abc\n");
    world
        .run(&args)
        .success()
        .prints("it is abc\n")
        .says("warning: the secret `token` has fewer than 4 bytes");
}

/// A directory in `/var/lib`, as a build user does not see the machine's temporary ones anyway; if that is on their volume.
fn outside() -> TempDir {
    let volume = |dir: &Path| dir.metadata().unwrap().dev();
    let usual = Path::new("/var/lib");
    let same = usual.exists() && volume(usual) == volume(&std::env::temp_dir());
    let dir = tempfile::tempdir_in(usual).ok().filter(|_| same);
    let dir = dir.unwrap_or_else(|| tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn the_file_of_a_secret_is_for_steps_that_are_given_it() {
    let (world, outside) = (World::new(), outside());
    let token = outside.path().join("token");
    fs::write(&token, SECRET).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let script = format!("cat {0}; cp {0} copy; test ! -s copy && echo nothing", token.display());
    let spec = world.spec(&format!("((from scratch) (run (shell \"{script}\")))"));
    let given = format!("token:{}", token.display());
    let built = world.run(["build", spec.to_str().unwrap(), "--no-redact", "--secret", &given]);
    let built = built.success();
    assert!(built.stdout.contains("nothing"), "{built:#?}");
    assert!(!built.stdout.contains(SECRET), "{built:#?}");
}

#[test]
fn a_step_sees_neither_the_store_nor_a_deleted_cache() {
    let (world, outside) = (World::new(), outside());
    let store = outside.path().join("store");
    let (dir, url) = (store.display(), format!("--store=rsync:{}", store.display()));
    let run = |args: &[&str]| world.run([args, &[&url]].concat());
    let cached = "(cache (c (target c)))";
    let build =
        |script: &str| world.spec(&format!("((from scratch) (run {cached} (shell \"{script}\")))"));
    let first = build("echo precious > c/f; cat c/f; chmod -R a+rX c");
    run(&["build", first.to_str().unwrap()]).success().prints("precious\n");
    run(&["clean"]).success();
    let spy = format!(
        "ls c; ls -R {dir}; grep -r precious {dir} $HOME; cat {dir}/*/*/*; echo x > {dir}/x; echo done"
    );
    let second = build(&spy);
    let built = run(&["build", second.to_str().unwrap()]).success().prints("done\n");
    let seen =
        built.stdout.lines().filter(|line| line.contains("precious") || line.ends_with("result"));
    assert_eq!(seen.filter(|line| !line.contains("grep")).count(), 0, "{built:#?}");
    assert!(!store.join("x").exists());
}
