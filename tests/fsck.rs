//! `obuild fsck`: what is sound is called so, and what is not is found and repaired.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{World, names};

const SPEC: &str = "((from scratch) (run (shell \"echo 1 > a\")) (run (cache (c (target c))) (shell \"cat a > b\")))";

/// A world with three results, and the id of the last.
fn built() -> (World, String) {
    let world = World::new();
    let id = world.build_ok(SPEC);
    world.run(["fsck"]).success().prints("3 results, all sound\n");
    (world, id)
}

/// Runs SQL on the index.
fn sql(world: &World, text: &str) {
    let db = rusqlite::Connection::open(world.store().join("state/db/db.sqlite")).unwrap();
    db.execute_batch(&format!("PRAGMA foreign_keys = off; {text}")).unwrap();
}

/// What was done to the store is found, stays as it is until it is repaired, and is sound then.
#[track_caller]
fn found_and_repaired(world: &World, what: &str) {
    for _ in 0..2 {
        world.run(["fsck"]).code(1).prints(what).prints("; --repair would ");
    }
    world.run(["fsck", "--repair"]).code(1).prints(what).prints("; repaired: ");
    world.run(["fsck"]).success().prints("all sound\n");
    world.build_ok(SPEC);
    world.assert_clean();
}

#[test]
fn rows_and_results_agree() {
    let (world, id) = built();
    sql(&world, &format!("DELETE FROM builds WHERE id = '{id}'"));
    found_and_repaired(&world, "the index does not know it");
    fs::remove_dir_all(world.store().join("result").join(&id)).unwrap();
    found_and_repaired(&world, "the store does not have it");
    sql(&world, "UPDATE builds SET rc = 7");
    found_and_repaired(&world, "0 results stand on it, and the index says 7");
    sql(&world, "UPDATE builds SET parent = NULL");
    found_and_repaired(&world, "and the index says otherwise");
    sql(&world, &format!("UPDATE builds SET parent = '{}' WHERE id = '{id}'", "0".repeat(64)));
    found_and_repaired(&world, "which the index does not know");
    sql(
        &world,
        &format!("INSERT INTO obuild_failures VALUES ('{id}', datetime('now'), 'h', 'r', 1)"),
    );
    found_and_repaired(&world, "the tree of its failure is gone");
}

#[test]
fn results_are_whole() {
    let (world, id) = built();
    let part = |name: &str| world.store().join("result").join(&id).join(name);
    fs::write(part("obuild.json"), "{").unwrap();
    found_and_repaired(&world, "what it knows of itself cannot be read");
    fs::remove_file(part("log")).unwrap();
    found_and_repaired(&world, "its log is missing");
    fs::remove_dir_all(part("rootfs")).unwrap();
    found_and_repaired(&world, "it has no tree");
    let base = base_of(&world, &id);
    fs::remove_file(base.join("env")).unwrap();
    found_and_repaired(&world, "the environment of its image is missing");
}

/// The directory of the image that a result stands on.
fn base_of(world: &World, id: &str) -> PathBuf {
    let json = world.run(["inspect", "--json", id]).success();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let base = json["ancestors"].as_array().unwrap().last().unwrap().as_str().unwrap();
    world.store().join("result").join(base)
}

#[test]
fn what_does_not_belong_there_is_found() {
    let (world, _) = built();
    let store = world.store();
    fs::create_dir_all(store.join("result-tmp/dead/rootfs")).unwrap();
    found_and_repaired(&world, "was left by a process that was killed");
    fs::write(store.join("cache-tmp/dead"), "").unwrap();
    found_and_repaired(&world, "was left by a process that was killed");
    fs::create_dir_all(store.join("state/locks")).unwrap();
    fs::write(store.join("state/locks").join("0".repeat(64)), "").unwrap();
    found_and_repaired(&world, "1 locks of processes that were killed");
    fs::write(store.join("cache/file"), "").unwrap();
    found_and_repaired(&world, "is no directory, as a cache is");
    fs::create_dir(store.join("result/mine")).unwrap();
    world.run(["fsck", "--repair"]).code(1).prints("its name is no id").prints("not repaired");
    fs::remove_dir(store.join("result/mine")).unwrap();
    world.run(["fsck"]).success();
}

#[test]
fn every_byte_is_compared() {
    let (world, id) = built();
    let first = world.run(["fsck", "--digest"]).success();
    first.prints("took the digests of 3 results\n");
    world.run(["fsck", "--digest"]).success().prints("3 results, all sound\n");
    let json = world.run(["inspect", "--json", &id]).success();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let parent = json["ancestors"][0].as_str().unwrap();
    fs::write(world.result_file(parent, "a"), "2\n").unwrap();
    world.run(["fsck"]).success();
    let what = "its tree does not hold what it held";
    world.run(["fsck", "--digest"]).code(1).prints(what);
    let repaired = world.run(["fsck", "--digest", "--repair", "--json"]).code(1);
    let json: serde_json::Value = serde_json::from_str(&repaired.stdout).unwrap();
    // It shares the file with what stands on it, which may be looked at first.
    let findings = json["findings"].as_array().unwrap();
    let of_parent = findings.iter().find(|finding| finding["id"] == parent).unwrap();
    assert!(of_parent["repair"]["done"].is_string(), "{json}");
    assert_eq!(names(&world.store().join("result")).len(), 1, "what stood on it has gone, too");
    assert_eq!(world.build(SPEC).success().saved().len(), 2);
    fs::hard_link(world.result_file(&id, "b"), world.path("outside")).unwrap();
    world.run(["fsck", "--digest"]).code(1).prints("2 names, of which only 1 are in results");
}

#[test]
fn trees_kept_for_the_next_step_are_proved() {
    let world = World::new();
    let many = "(run (shell \"for n in $(seq 300); do echo $n > $n; done\"))";
    let spec = format!("((from scratch) {many} (run (shell \"echo more > more\")))");
    let tree = || {
        // With the results of the other spec, or it would be counted anew each time.
        world.build_ok(SPEC);
        world.run(["build", "--no-cache", world.spec(&spec).to_str().unwrap()]).success();
        world.run(["fsck", "--digest"]).success();
        let warm = world.store().join("warm");
        warm.join(names(&warm).pop().unwrap())
    };
    let rewritten = tree();
    fs::write(rewritten.join("rootfs/7"), "8\n").unwrap();
    found_and_repaired(&world, "is not as its index says at");
    assert!(!rewritten.exists());
    let shared = tree();
    fs::hard_link(shared.join("rootfs/7"), world.path("outside")).unwrap();
    found_and_repaired(&world, "is not as its index says at");
    for (at, what) in [(10, "has no index or no files"), (9000, "has a damaged index")] {
        let index = tree().join("obuild-index");
        let mut bytes = fs::read(&index).unwrap();
        bytes[at] ^= 1;
        fs::write(&index, bytes).unwrap();
        found_and_repaired(&world, what);
    }
    fs::remove_dir_all(tree().join("rootfs")).unwrap();
    found_and_repaired(&world, "has no index or no files");
}

#[test]
fn a_damaged_index_is_made_anew() {
    let (world, id) = built();
    for name in ["db.sqlite-wal", "db.sqlite-shm"] {
        let _ = fs::remove_file(world.store().join("state/db").join(name));
    }
    let text = "this is no database, and it is long enough to look like one".repeat(100);
    fs::write(world.store().join("state/db/db.sqlite"), text).unwrap();
    found_and_repaired(&world, "the index is damaged");
    world.run(["ls"]).success().prints(&id[..12]);
}

#[test]
fn a_build_that_runs_is_no_finding() {
    let world = World::without_views();
    let go = world.path("context/go");
    let spec = world.spec(&format!(
        "((from scratch) (run (cache (c (target c))) (shell \"printf 'beg%s\\\\n' un; until test -e {}; do sleep 0.02; done\")))",
        go.display()
    ));
    let mut build = world.start(["build", spec.to_str().unwrap()]);
    build.wait_for("begun\n");
    world.run(["fsck", "--repair"]).success();
    fs::write(go, "").unwrap();
    build.finish().success();
    world.run(["fsck"]).success();
}
