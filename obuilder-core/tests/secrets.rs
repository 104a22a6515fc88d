//! Secrets are hidden wherever a build tells something: its log, live and later, its events and its errors.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::path::Path;

use obuilder_core::Cancel;
use obuilder_core::error::SandboxError;
use obuilder_core::interpreter::{BuildError, Context, Options};
use obuilder_core::step::Outcome;
use obuilder_core::testing::strict_sandbox::StrictSandbox;
use support::{World, chain};

const TEXT: &str = "((from image) (run (secrets (key (target /run/key))) (shell show)))";
const HIDDEN: &str = "the key is ***, said twice: ******\nhunt";
const SHOWN: &str = "the key is hunter2, said twice: hunter2hunter2\nhunt";

/// A sandbox whose steps print their secret, byte by byte, and end as their command says.
fn telling() -> StrictSandbox {
    StrictSandbox::new(|call| {
        let key = call.step.secrets[0].value.to_string();
        let key = key.trim();
        let text = format!("the key is {key}, said twice: {key}{key}\nhunt");
        for byte in text.as_bytes() {
            call.log.write(&[*byte]).unwrap();
        }
        let failed = || SandboxError::Failed { action: "go on".into(), source: "no".into() };
        match call.command().to_string().as_str() {
            "fail" => Ok(Outcome::Exited(1)),
            "break" => Err(failed()),
            _ => Ok(Outcome::Exited(0)),
        }
    })
}

fn with_key(world: &World, value: &str) -> Context {
    let mut context = world.context();
    context.secrets.push(("key".into(), value.into()));
    context
}

fn log_of(world: &World, id: &obuilder_core::ResultId) -> String {
    std::io::read_to_string(world.cache.log(id).unwrap().file).unwrap()
}

/// Whether a file below `dir` contains the secret.
fn is_in_a_file(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().map(Result::unwrap).any(|entry| {
        match entry.file_type().unwrap().is_dir() {
            true => is_in_a_file(&entry.path()),
            false => std::fs::read(entry.path()).unwrap().windows(7).any(|part| part == b"hunter2"),
        }
    })
}

#[test]
fn secrets_are_hidden_in_the_log_and_in_events() {
    let world = World::new(telling());
    let (context, options) = (with_key(&world, "hunter2\n"), Options::default());
    for _ in 0..2 {
        let (result, said) = world.build_with(TEXT, &context, &options, &Cancel::new());
        assert!(
            said.text().contains(HIDDEN) && !said.text().contains("hunter2"),
            "{}",
            said.text()
        );
        assert_eq!(log_of(&world, &result.unwrap()), HIDDEN);
    }
    assert!(!is_in_a_file(world.dir.path()));
}

#[test]
fn a_failed_step_does_not_show_them_either() {
    let world = World::new(telling());
    let context = with_key(&world, "hunter2");
    for (command, keep_failed) in [("fail", false), ("fail", true), ("break", false)] {
        let text = TEXT.replace("show", command);
        let options = Options { keep_failed, ..Options::default() };
        let (result, said) = world.build_with(&text, &context, &options, &Cancel::new());
        let error = result.unwrap_err();
        let BuildError::Step { id, .. } = &error else { panic!("{error:?}") };
        assert_eq!(log_of(&world, id), HIDDEN);
        for told in
            [said.text(), chain(&error), format!("{error:?}"), format!("{:?}", error.hint())]
        {
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
    assert!(!is_in_a_file(world.dir.path()));
}

#[test]
fn they_are_shown_when_that_is_asked_for_and_hidden_again_when_it_is_not() {
    let world = World::new(telling());
    let context = with_key(&world, "hunter2");
    let shown = Options { redact: false, ..Options::default() };
    let (result, said) = world.build_with(TEXT, &context, &shown, &Cancel::new());
    assert!(said.text().contains(SHOWN), "{}", said.text());
    assert_eq!(log_of(&world, &result.unwrap()), SHOWN);
    let (_, said) = world.build_with(TEXT, &context, &Options::default(), &Cancel::new());
    assert!(said.text().ends_with(&format!("{HIDDEN}cached\n")), "{}", said.text());
}

#[test]
fn a_short_secret_is_shown_and_warned_of_once() {
    let world = World::new(telling());
    let mut context = with_key(&world, "abc\n");
    context.secrets.push(("unused".into(), "x".into()));
    let text = format!("((build a {TEXT}) {}", &TEXT[1..]);
    let (result, said) = world.build_with(&text, &context, &Options::default(), &Cancel::new());
    result.unwrap();
    assert!(said.text().contains("the key is abc"), "{}", said.text());
    assert_eq!(said.count("warning: "), 1, "{}", said.text());
    assert!(said.text().starts_with("warning: the secret `key` has fewer than 4 bytes"));
}
