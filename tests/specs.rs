//! Every example spec builds, and the second time comes from the cache.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{World, names};

fn specs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("specs")
}

/// Builds `specs/NAME` twice; both must print `expected` and the second must build nothing.
fn check(name: &str, more: &[&str], expected: &[&str]) -> (World, String) {
    let world = World::new();
    let spec = specs().join(name);
    let args = || [&["build", spec.to_str().unwrap()], more].concat();
    let first = world.run(args()).success();
    assert!(!first.saved().is_empty());
    let second = world.run(args()).success();
    assert_eq!(second.saved(), [""; 0], "{second:#?}");
    assert_eq!(first.got(), second.got());
    for text in expected {
        assert!(first.stdout.contains(text), "first: {text:?} is not in {first:#?}");
        assert!(second.stdout.contains(text), "second: {text:?} is not in {second:#?}");
    }
    world.assert_clean();
    let id = first.got();
    (world, id)
}

#[test]
fn hello() {
    let (world, id) = check("hello.scm", &[], &["Hello from a sandbox\n", "\n4\n"]);
    let greeting = std::fs::read_to_string(world.result_file(&id, "greeting")).unwrap();
    assert_eq!(greeting, "Hello from a sandbox\n");
}

#[test]
fn multi_stage() {
    let expected = ["(build \"data\" …)", "--> finished \"report\"", "largest: 25"];
    check("multi-stage.scm", &[], &expected);
}

#[test]
fn cache() {
    let found = "found in the cache: pretend this is large";
    check("cache.scm", &[], &["fetching", found, "the cache is not in the result"]);
}

#[test]
fn secrets() {
    let world = World::new();
    let token = world.write("token", "a very secret word\n");
    let secret = format!("token:{}", token.display());
    let expected = ["the secret has 19 bytes", "the secret is gone"];
    let (built, _) = check("secrets.scm", &["--secret", &secret], &expected);
    let grep = std::process::Command::new("grep")
        .args(["-r", "-a", "-l", "a very secret word"])
        .arg(built.store())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "the secret is in the store");
}

#[test]
fn copy() {
    let expected = ["./source/main.c\n", "./specs/hello.scm\n"];
    let (world, id) = check("copy.scm", &[], &expected);
    assert_eq!(names(&world.result_file(&id, "project/specs")), ["cache.scm", "hello.scm"]);
}

#[test]
fn c_program() {
    if std::process::Command::new("cc").arg("--version").output().is_err() {
        common::skip("no C compiler here");
        return;
    }
    let (world, id) = check("c-program.scm", &[], &["check: passed", "2 be\n2 to\n1 not\n1 or\n"]);
    assert_eq!(names(&world.result_file(&id, "bin")), ["wordfreq"]);
    assert_eq!(names(&world.result_file(&id, "")), ["bin"]);
}

#[test]
fn every_spec_has_a_test_and_says_how_to_run_it() {
    let tests =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file!())).unwrap();
    for name in names(&specs()).iter().filter(|name| name.ends_with(".scm")) {
        assert!(tests.contains(&format!("check(\"{name}\"")), "no test builds {name}");
        let text = std::fs::read_to_string(specs().join(name)).unwrap();
        assert!(text.starts_with("; "), "{name} does not begin with what it shows");
        assert!(
            text.contains(&format!("obuild build specs/{name}")),
            "{name} does not say how to run it"
        );
    }
}
