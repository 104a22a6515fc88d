//! The program with a store in a ZFS pool, of the stand-in for `zfs`.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "../../tests/common/uid.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod uid;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Client, run, whole_log};
use ocluster::testing::{Scheduler, Security};
use program::Place;

#[test]
fn results_may_lie_in_a_pool() {
    let built = Path::new(env!("CARGO_BIN_EXE_obuild-worker"));
    let stand_in = built.with_file_name("examples/zfs-stand-in");
    if !stand_in.exists() {
        eprintln!(
            "SKIP: a pool: `cargo build --workspace --examples` makes the stand-in for `zfs`"
        );
        return;
    }
    let scheduler = Scheduler::start("p", Security::Tls);
    let place = Place::new(&scheduler, 1);
    for dir in ["bin", "zfs"] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    let zfs = place.path("bin/zfs");
    let state = place.path("zfs");
    let text = format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", stand_in.display(), state.display());
    std::fs::write(&zfs, text).unwrap();
    std::fs::set_permissions(&zfs, Permissions::from_mode(0o755)).unwrap();
    let pool = place.path("tank");
    let made = Command::new(&zfs).args(["make", "tank"]).arg(&pool).status().unwrap();
    assert!(made.success());
    let store = format!("zfs:{}", pool.display());
    let _worker = place.start(&["--obuilder-store", &store]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let spec = "((from scratch) (shell /bin/sh -c) (run (shell \"echo hello\")))";
        let id = client.submit(spec).result().await.unwrap();
        let listed = Command::new(&zfs)
            .args(["list", "-Hp", "-r", "-t", "snapshot", "-o", "name", "tank"])
            .output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        assert!(listed.contains(&format!("tank/result/{id}@snap")), "{listed}");
        let log = whole_log(&client.submit(spec)).await;
        assert!(log.contains("from cache"), "{log}");
    });
    assert_eq!(place.processes(), [""; 0], "left running");
    scheduler.check();
}
