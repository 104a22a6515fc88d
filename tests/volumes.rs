//! Volumes that are full, or take no writes any more.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use common::ten::{Expected, Ten};
use common::{Volume, skip, trees};
use nix::sys::signal::Signal;

/// A world whose store is a small volume, with one large result in it.
fn small(megabytes: u64) -> Option<(Ten, Volume)> {
    let ten = Ten::new();
    let store = ten.world.store();
    fs::create_dir(&store).unwrap();
    let volume = Volume::ext4(&store, &ten.world.path("image"), megabytes);
    let Some(volume) = volume else {
        skip("a volume of its own needs root, Linux and mkfs.ext4");
        return None;
    };
    ten.world.write("context/large", vec![b'x'; 8 << 20]);
    ten.world.build_ok("((from scratch) (copy (src large) (dst large)))");
    Some((ten, volume))
}

/// Fills the volume but for about so many bytes.
fn fill(dir: &Path, leave: u64) {
    let mut filler = OpenOptions::new().create(true).append(true).open(dir.join("filler")).unwrap();
    let mut piece = 1 << 20;
    while piece >= 512 {
        match filler.write(&vec![1; piece]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    filler.sync_all().unwrap();
    let length = filler.metadata().unwrap().len();
    filler.set_len(length - leave).unwrap();
    filler.sync_all().unwrap();
    File::open(dir).unwrap().sync_all().unwrap();
}

/// Nothing that is there is other than it should be.
fn nothing_half_made(ten: &Ten, expected: &Expected, when: &str) {
    for (id, held) in trees::results(&ten.world.store()) {
        let large = held.contains_key("large");
        assert!(large || Some(&held) == expected.results.get(&id), "{when}: {id}");
    }
}

/// Builds on a volume with so many bytes free, then makes room and goes on.
fn full(leave: u64, expected: &Expected) {
    let Some((ten, _volume)) = small(40) else { return };
    let when = format!("{leave} bytes are free");
    fill(&ten.world.store(), leave);
    let build = ten.world.run(ten.build());
    match build.status.code() {
        Some(0) => assert_eq!(build.got(), expected.id),
        Some(1) => {}
        Some(3) => drop(build.says("o space left").says("hint: make room")),
        _ => panic!("{when}: {build:#?}"),
    }
    nothing_half_made(&ten, expected, &when);
    // With the filler where it is.
    let gone = ten.world.run(["gc", "--max-size=1M"]).success();
    assert!(gone.stdout.contains("deleted "), "{when}: {gone:#?}");
    ten.world.run(["clean"]).success();
    ten.check(&when, expected);
}

#[test]
fn a_full_disk_in_any_phase() {
    let expected = Ten::undisturbed();
    for kibibytes in [0, 12, 64, 150, 300, 600] {
        full(kibibytes << 10, &expected);
    }
}

#[test]
fn a_disk_that_fills_up_while_it_is_full_can_be_emptied() {
    let Some((ten, _volume)) = small(40) else { return };
    // Nobody has opened the index since: not even what SQLite keeps beside it is there.
    for name in ["db.sqlite-shm", "db.sqlite-wal"] {
        let _ = fs::remove_file(ten.world.store().join("state/db").join(name));
    }
    fill(&ten.world.store(), 0);
    ten.world.run(["gc", "--max-size=1M"]).success().prints("deleted ");
    ten.check("after gc", &Ten::undisturbed());
}

#[test]
fn a_volume_that_takes_no_writes_any_more() {
    let Some((ten, volume)) = small(40) else { return };
    let expected = Ten::undisturbed();
    ten.world.run(["build", "small.scm"]).success();
    volume.set_writable(false);
    ten.world.run(ten.build()).code(3).says("Read-only file system");
    ten.world.run(["gc", "--max-size=0"]).code(3).says("Read-only file system");
    volume.set_writable(true);
    nothing_half_made(&ten, &expected, "read-only");
    ten.world.run(["clean"]).success();
    ten.check("writable again", &expected);
}

#[test]
fn a_volume_that_breaks_down_under_a_step() {
    let Some((ten, volume)) = small(40) else { return };
    let expected = Ten::undisturbed();
    let spec = "((from scratch) (run (shell \"echo begun; sleep 600\")))";
    let spec = ten.world.write("context/sleeping.scm", spec);
    let mut build = ten.world.start(["build", spec.to_str().unwrap()]);
    build.wait_for("begun\n");
    if !volume.break_down() {
        return skip("the kernel cannot be asked for an error of ext4");
    }
    build.signal(Signal::SIGTERM);
    let ended = build.finish();
    assert!(matches!(ended.status.code(), Some(3 | 130)), "{ended:#?}");
    ten.world.run(ten.build()).code(3).says("Read-only file system");
    volume.unmount();
    let _volume = Volume::of_image(&ten.world.store(), &ten.world.path("image")).unwrap();
    nothing_half_made(&ten, &expected, "mounted again");
    ten.world.run(["clean"]).success();
    ten.check("mounted again", &expected);
}
