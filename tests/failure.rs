//! A step that fails: its message, its log, its tree.

#![allow(clippy::unwrap_used)]

mod common;

use common::World;

const FAILING: &str = "((from scratch) (workdir /w) (run (shell \"echo kept > before\"))
    (run (shell \"echo one; echo two >&2; echo half > made; exit 7\")))";

/// The id that `obuild ls --failed` gives.
fn failed_id(world: &World) -> String {
    let listing = world.run(["ls", "--failed", "--json"]).success();
    let listing: serde_json::Value = serde_json::from_str(&listing.stdout).unwrap();
    listing["failures"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_failing_step_leaves_its_log() {
    let world = World::new();
    let finished = world
        .build(FAILING)
        .code(1)
        .says("exit status 7")
        .says("`obuild log ")
        .prints("one\ntwo\n");
    assert_eq!(finished.saved().len(), 2, "what came before is saved");
    let id = failed_id(&world);
    let log = world.run(["log", &id[..12]]).success();
    assert_eq!(log.stdout, "one\ntwo\n");
    world.run(["ls"]).success().prints(&id[..12]).prints("failed").prints("echo kept");
    world.run(["ls", "--failed"]).success().prints(&id[..12]).prints_not("echo kept");
    world
        .run(["inspect", &id[..12]])
        .success()
        .prints("failed")
        .prints("exit status 7")
        .prints("not kept");
    world.run(["shell", &id]).code(2).says("was not kept").says("--keep-failed");
    assert!(!world.store().join("result").join(&id).exists());
    world.assert_clean();
    world.build(FAILING).code(1);
    world.run(["delete", &id]).success();
    world.run(["log", &id]).code(2);
}

#[test]
fn a_kept_tree_can_be_opened() {
    let world = World::new();
    world.spec(FAILING);
    world.run(["build", "--keep-failed", "spec.scm"]).code(1).says("`obuild shell ");
    let id = failed_id(&world);
    world.assert_clean();
    let shell = |command: &str| world.run(["shell", &id[..12], "--", "/bin/sh", "-c", command]);
    shell("cat before made").success().prints("kept\nhalf\n");
    shell("echo more > made").success();
    shell("cat made").success().prints("half\n");
    shell("exit 9").code(9);
    shell("kill -TERM $$").code(128 + 15);
    world.run(["inspect", &id]).success().prints("failed tree kept");
    world.assert_clean();
    world.run(["delete", &id]).success();
    world.run(["shell", &id]).code(2);
}

#[test]
fn a_result_can_be_opened() {
    let world = World::new();
    let id = world.build_ok("((from scratch) (workdir /w) (run (shell \"echo made > file\")))");
    world.run(["shell", &id[..12], "cat", "file"]).success().prints("made\n");
    world.run(["shell", &id[..12], "rm", "file"]).success();
    world.run(["shell", &id[..12], "cat", "file"]).success().prints("made\n");
    world.assert_clean();
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    if !std::path::Path::new("/dev/full").exists() {
        common::skip("there is no /dev/full");
        return;
    }
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"echo x\")))");
    let spec = spec.to_str().unwrap();
    let styles = ["plain", "json", "tty"].map(|style| format!("--progress={style}"));
    let mut commands: Vec<_> = styles.iter().map(|style| vec!["build", style, spec]).collect();
    commands.extend([vec!["ls"], vec!["build", "--help"], vec!["--version"]]);
    for args in commands {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = world.command(&args).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("error: failed to write to standard output"), "{args:?}: {said}");
    }
}

#[test]
fn a_step_that_is_killed_says_by_what() {
    let world = World::new();
    let finished = world.build("((from scratch) (run (shell \"kill -SEGV $$\")))").code(1);
    assert!(
        finished.stderr.contains("SIGSEGV") || finished.stderr.contains("signal 11"),
        "{finished:#?}"
    );
    world.assert_clean();
}

#[test]
fn a_step_has_a_time_limit() {
    let world = World::new();
    world.spec("((from scratch) (run (shell \"echo begun; sleep 600\")))");
    let finished = world.run(["build", "--timeout=1s", "spec.scm"]).code(1).prints("begun");
    assert!(finished.elapsed.as_secs() < 60, "{finished:#?}");
    world.assert_clean();
}

#[test]
fn what_a_step_leaves_running_is_gone() {
    let world = World::new();
    world
        .build("((from scratch) (run (shell \"sleep 600 & setsid sleep 601 & echo started\")))")
        .success();
    world.assert_clean();
    world.build("((from scratch) (run (shell \"sleep 600 & exit 3\")))").code(1);
    world.assert_clean();
}

#[test]
fn a_step_that_failed_is_tried_again() {
    let world = World::without_views();
    let flag = world.write("flag", "");
    let text = format!("((from scratch) (run (shell \"test ! -e {}\")))", flag.display());
    world.build(&text).code(1);
    std::fs::remove_file(flag).unwrap();
    let id = world.build_ok(&text);
    world.run(["ls", "--failed"]).success().prints_not(&id[..12]);
}
