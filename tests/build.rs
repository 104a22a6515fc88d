//! `obuild build`, `plan`, `dockerfile`: what a build does and what it prints.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::{Running, World};

#[test]
fn a_build_prints_what_obuilder_prints() {
    let world = World::new();
    let text = "((from scratch) (shell /bin/sh -c) (env A b) (workdir /w) (comment \"a remark\")
                 (run (shell \"echo $A; pwd | sed s,.*/,,; printf x\")))";
    let first = world.build(text).success();
    let [base, step] = &first.saved()[..] else { panic!("{first:#?}") };
    let expected = format!(
        "(from scratch)\n---> saved as \"{base}\"\n/: (shell /bin/sh -c)\n/: (env A b)\n/: (workdir /w)\n\
         /w: (comment \"a remark\")\n\
         /w: (run (shell \"echo $A; pwd | sed s,.*/,,; printf x\"))\nb\nw\nx---> saved as \"{step}\"\n\
         Got: \"{step}\"\n"
    );
    assert_eq!(first.stdout, expected);
    let second = world.build(text).success();
    let cached =
        |id: &str| (format!("---> saved as \"{id}\""), format!("---> using \"{id}\" from cache"));
    let (saved, using) = cached(base);
    let expected = expected.replace(&saved, &using);
    let (saved, using) = cached(step);
    assert_eq!(second.stdout, expected.replace(&saved, &using));
    world.assert_clean();
}

#[test]
fn a_build_from_the_cache_spawns_no_process() {
    let world = World::new();
    let spec = "((from scratch) (run (shell \"echo 1\")) (run (shell \"echo 2\")))";
    world.build(spec).success();
    let trace = world.path("trace");
    let inner = world.command(["build", "spec.scm"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=process", "-o"]).arg(&trace);
    command
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .current_dir(world.path("context"));
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    match command.stdout(Stdio::null()).status() {
        Err(error) => return common::skip(&format!("counting processes needs strace: {error}")),
        Ok(status) if !status.success() => return common::skip("strace may not trace here"),
        Ok(_) => {}
    }
    let calls = fs::read_to_string(trace).unwrap();
    let spawned = |line: &&str| {
        let made = ["clone(", "clone3(", "fork("].iter().any(|call| line.contains(call));
        line.contains("execve(") || (made && !line.contains("CLONE_THREAD"))
    };
    assert_eq!(calls.lines().filter(spawned).count(), 1, "its own start alone:\n{calls}");
}

#[test]
fn every_step_starts_from_the_one_before() {
    let world = World::new();
    let id = world.build_ok(
        "((from scratch) (run (shell \"echo 1 > a; mkdir d; ln -s a l\"))
          (run (shell \"echo 2 >> a; mv d e\")) (run (shell \"cat a; test -d e; test -L l\")))",
    );
    assert_eq!(fs::read_to_string(world.result_file(&id, "a")).unwrap(), "1\n2\n");
    world.assert_clean();
}

#[test]
fn only_what_changed_is_built_again() {
    let world = World::new();
    world.write("context/a", "1");
    let spec = "((from scratch) (run (shell \"echo first\")) (copy (src a) (dst a)) (run (shell \"cat a\")))";
    assert_eq!(world.build(spec).success().saved().len(), 4);
    fs::set_permissions(world.path("context/a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(world.build(spec).success().saved().len(), 0);
    world.write("context/a", "2");
    let third = world.build(spec).success().prints("\n2---> saved as");
    assert_eq!(third.saved().len(), 2);
    let nothing = world.run(["build", "--no-cache", "spec.scm"]).success();
    assert_eq!(nothing.saved().len(), 3, "all but the image: {nothing:#?}");
}

#[test]
fn the_spec_may_come_from_anywhere() {
    let world = World::new();
    world.write("context/file", "of the context");
    let text = "((from scratch) (copy (src file) (dst file)) (run (shell \"cat file\")))";
    world.write("context/obuild.scm", text);
    let usual = world.run(["build"]).success().got();
    world.write("elsewhere/spec", text);
    let named = world.run(["build", "../elsewhere/spec", "."]).success().got();
    let mut command = world.command(["build", "-", "."]);
    command.stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let read = String::from_utf8(output.stdout).unwrap();
    assert_eq!(usual, named);
    assert!(read.ends_with(&format!("Got: \"{usual}\"\n")), "{read}");
}

#[test]
fn a_step_sees_a_clean_world() {
    let world = World::new();
    let mut command = world.command(["build", "-"]);
    command.env("LEAK", "leaked").env("OBUILD_TEST_LEAK", "leaked");
    let spec = world.spec(
        "((from scratch) (env MINE yes)
          (run (shell \"env | sort; read line || echo 'no input'; test $HOME = $PWD && echo at home\")))",
    );
    let mut command_args = world.command(["build", spec.to_str().unwrap()]);
    command_args.env("LEAK", "leaked");
    Running::start(command_args)
        .finish()
        .success()
        .prints("MINE=yes\n")
        .prints("no input\n")
        .prints("at home\n")
        .prints_not("LEAK=")
        .prints_not("OBUILD_");
}

#[test]
fn images_are_directories() {
    let world = World::new();
    world.write("images/tools/bin/tool", "#!/bin/sh\necho a tool, version 1\n");
    fs::set_permissions(world.path("images/tools/bin/tool"), fs::Permissions::from_mode(0o755))
        .unwrap();
    world.write("images/tools.env", "FROM_IMAGE=yes\n");
    let spec = "((from tools) (run (shell \"./bin/tool; echo $FROM_IMAGE\")))";
    let first = world.build(spec).success().prints("a tool, version 1\nyes\n");
    assert_eq!(world.build(spec).success().saved().len(), 0);
    // The image behind the name changes: what was built on the old one must not be used any more.
    world.write("images/tools/bin/tool", "#!/bin/sh\necho a tool, version 2\n");
    let second = world.build(spec).success().prints("a tool, version 2\nyes\n");
    assert_eq!(second.saved().len(), 2);
    assert_eq!(first.got(), second.got(), "ids name the image, not its contents");
}

#[test]
fn a_plan_runs_nothing() {
    let world = World::new();
    world.spec("((from scratch) (run (shell \"echo one\")) (run (shell \"echo two\")))");
    world
        .run(["plan", "spec.scm"])
        .success()
        .prints("3 steps: 0 cached\n")
        .prints("/: (run (shell \"echo two\"))\n");
    assert!(common::names(&world.store().join("result")).is_empty());
    let id = world.run(["build", "spec.scm"]).success().got();
    world.run(["plan", "spec.scm"]).success().prints("3 steps: 3 cached\n").prints(&id[..12]);
    let json = world.run(["plan", "spec.scm", "--json"]).success();
    let rows: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(rows[2]["id"], id);
    assert_eq!(rows[2]["state"], "cached");
    world.spec("((from scratch) (run (shell \"echo one\")) (run (shell \"echo three\")))");
    world.run(["plan", "spec.scm"]).success().prints("3 steps: 2 cached\n").prints("\nbuild   ");
}

#[test]
fn two_builds_of_one_step_share_it() {
    let world = World::new();
    let spec = world.spec(
        "((from scratch) (run (shell \"echo begun; sleep 1; date +%N > stamp; cat stamp\")))",
    );
    let args = ["build", spec.to_str().unwrap()];
    let mut first = world.start(args);
    first.wait_for("begun");
    let second = world.run(args).success();
    let first = first.finish().success();
    assert_eq!(first.got(), second.got());
    let stamp = fs::read_to_string(world.result_file(&first.got(), "stamp")).unwrap();
    first.prints(&stamp);
    second.prints(&stamp);
    world.assert_clean();
}

#[test]
fn a_spec_is_printed_as_a_dockerfile() {
    let world = World::new();
    world.spec(
        "((from busybox) (shell /bin/sh -c) (run (cache (c (target /c))) (shell \"echo x\")))",
    );
    let expected = "FROM busybox\nSHELL [ \"/bin/sh\", \"-c\" ]\nRUN echo x\n";
    assert_eq!(
        world.run(["dockerfile", "-f", "spec.scm"]).success().stdout.trim_end(),
        expected.trim_end()
    );
    world
        .run(["dockerfile", "--buildkit", "spec.scm"])
        .success()
        .prints("RUN --mount=type=cache,id=c,target=/c,uid=0 echo x");
    world.run(["dockerfile", "--escape", "windows", "spec.scm"]).success().prints("#escape=`\n");
}

#[test]
fn a_dockerfile_is_made_of_the_usual_spec() {
    let world = World::new();
    world.run(["dockerfile"]).code(2).says("no spec is given, and there is no `obuild.scm` here");
    world.write("context/obuild.scm", "((from debian) (run (shell \"true\")))");
    world.run(["dockerfile"]).success().prints("FROM debian\n");
}
