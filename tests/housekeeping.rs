//! `ls`, `inspect`, `log`, `delete`, `gc`, `clean`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, names};

fn step(text: &str) -> String {
    format!("((from scratch) (run (shell \"{text}\")))")
}

fn results(world: &World) -> Vec<String> {
    names(&world.store().join("result"))
}

#[test]
fn results_are_listed_and_inspected() {
    let world = World::new();
    world.run(["ls"]).success().prints("nothing here yet");
    let id = world.build_ok(&step("echo hi > file"));
    world.run(["ls"]).success().prints(&id[..12]).prints("(run (shell \"echo hi > file\"))");
    let listing = world.run(["ls", "--json"]).success();
    let listing: serde_json::Value = serde_json::from_str(&listing.stdout).unwrap();
    assert_eq!(listing["results"].as_array().unwrap().len(), 2);
    let inspected = world.run(["inspect", &id[..8]]).success().prints(&id).prints("stands on");
    assert!(inspected.stdout.contains("/rootfs\n"), "{inspected:#?}");
    let json = world.run(["inspect", "--json", &id]).success();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["id"], id.as_str());
    assert!(json["result"]["seconds"].is_f64() && json["result"]["elapsed"].is_null(), "{json}");
    assert_eq!(json["ancestors"].as_array().unwrap().len(), 1);
}

#[test]
fn a_log_is_what_the_step_printed() {
    let world = World::new();
    let id = world.build_ok(&step("printf 'one\\\\ntwo'; printf '\\\\377' >&2"));
    let output = world.command(["log", &id]).output().unwrap();
    assert_eq!(output.stdout, b"one\ntwo\xff");
}

#[test]
fn nobody_reads_to_the_end() {
    let world = World::new();
    let id = world.build_ok(&step("seq 1 200000"));
    let mut command = std::process::Command::new("/bin/sh");
    let obuild = world.command(["log", &id]);
    command
        .args(["-c", "\"$@\" | head -n 1; exit ${PIPESTATUS:-0}", "sh"])
        .arg(obuild.get_program());
    command.args(obuild.get_args());
    for (name, value) in obuild.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_result_that_others_stand_on_is_not_deleted() {
    let world = World::new();
    let id = world.build_ok("((from scratch) (run (shell \"echo 1\")) (run (shell \"echo 2\")))");
    let json = world.run(["inspect", "--json", &id]).success();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let parent = json["ancestors"][0].as_str().unwrap();
    world.run(["delete", parent]).code(2).says("stand on it").says(&id).says("--recursive");
    assert_eq!(results(&world).len(), 3);
    world.run(["delete", &id[..12]]).success().prints(&format!("deleted {id}"));
    assert_eq!(results(&world).len(), 2);
    let base = json["ancestors"][1].as_str().unwrap();
    world.run(["delete", "--recursive", base]).success();
    assert_eq!(results(&world), [""; 0]);
    world.assert_clean();
}

#[test]
fn gc_says_why_it_keeps_what_it_keeps() {
    let world = World::new();
    world.write("context/large", vec![b'x'; 3 << 20]);
    let old = world.build_ok("((from scratch) (copy (src large) (dst large)))");
    let new = world.build_ok(&step("echo small"));
    let dry = world.run(["gc", "--dry-run", "--max-size=1M"]).success();
    let dry = dry.prints(&format!("would delete {}", &old[..12])).prints("kept ");
    assert!(
        dry.stdout.lines().filter(|line| line.starts_with("kept ")).all(|line| line.contains(": "))
    );
    assert_eq!(results(&world).len(), 3, "a dry run deletes nothing");
    world.run(["gc", "--max-size=1M"]).success().prints(&format!("deleted {}", &old[..12]));
    let left = results(&world);
    assert!(left.contains(&new) && !left.contains(&old), "{left:?}");
    world.run(["gc", "--older-than=1h"]).success().prints("deleted 0 results");
    world.run(["gc", "--min-free=1"]).success().prints("deleted 0 results");
    let json = world.run(["gc", "--dry-run", "--max-size=0", "--json"]).success();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["deleted"].as_array().unwrap().len(), 2);
    let first = &json["deleted"][0];
    assert!(first["id"].is_string() && first["bytes"].is_u64(), "{json}");
    world.build_ok(&step("echo small"));
    world.assert_clean();
}

#[test]
fn gc_spares_what_a_build_uses() {
    let world = World::without_views();
    let go = world.path("context/go");
    let spec = world.spec(&format!(
        "((from scratch) (run (shell \"echo one > a\"))
          (run (shell \"echo begun; until test -e {}; do sleep 0.05; done; cat a\")))",
        go.display()
    ));
    let mut build = world.start(["build", spec.to_str().unwrap()]);
    build.wait_for("begun\n");
    world.run(["gc", "--max-size=0"]).success();
    std::fs::write(go, "").unwrap();
    let id = build.finish().success().got();
    world.run(["log", &id]).success().prints("one\n");
    assert_eq!(world.build(&std::fs::read_to_string(spec).unwrap()).success().got(), id);
    world.assert_clean();
}

#[test]
fn the_tree_of_the_last_step_is_kept_for_the_next_and_goes_first() {
    let world = World::new();
    let many = "(run (shell \"for n in $(seq 300); do echo $n > $n; done\"))";
    let rest = "(run (shell \"echo other > 7\")) (run (shell \"cat 7 8 && echo third > 9\"))";
    let id = world.build_ok(&format!("((from scratch) {many} {rest})"));
    assert_eq!(names(&world.store().join("warm")).len(), 1);
    world.run(["log", &id]).success().prints("other\n8\n");
    world.run(["gc", "--older-than=1h"]).success().prints("deleted 0 results");
    assert_eq!(names(&world.store().join("warm")).len(), 1);
    let line = "trees kept for the next step";
    world
        .run(["gc", "--dry-run", "--max-size=1M"])
        .success()
        .prints(&format!("would delete {line}"));
    world.run(["gc", "--max-size=1M"]).success().prints(&format!("deleted {line}"));
    assert_eq!(names(&world.store().join("warm")), [""; 0]);
    assert_eq!(results(&world).len(), 4);
    world.build_ok(&format!("((from scratch) {many} {rest} (run (shell \"cat 9\")))"));
    assert_eq!(names(&world.store().join("warm")).len(), 1);
    world.run(["clean"]).success();
    assert_eq!(names(&world.store().join("warm")), [""; 0]);
    world.assert_clean();
}

#[test]
fn clean_deletes_everything() {
    let world = World::new();
    world.build_ok("((from scratch) (run (cache (c (target c))) (shell \"echo x > c/f\")))");
    world.build("((from scratch) (run (shell \"exit 1\")))").code(1);
    let cleaned = world.run(["clean"]).success().prints("forgot failed step ");
    cleaned.prints("(run (shell \"exit 1\"))");
    assert_eq!(results(&world), [""; 0]);
    assert_eq!(names(&world.store().join("cache")), [""; 0]);
    world.run(["ls"]).success().prints("nothing here yet");
    world.build_ok(&step("echo again"));
    world.assert_clean();
}
