//! Secrets in what `obuild build` prints and keeps.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::World;

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
