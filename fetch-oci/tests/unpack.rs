//! Layers on top of each other give the tree that they describe, and nothing outside of it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::{Tar, World, gzip, is_root};
use tar::EntryType;

#[test]
fn a_tree_is_unpacked_with_all_that_is_in_it() {
    let world = World::new();
    let long = "n".repeat(200);
    let layer = Tar::new()
        .dir("./", 0o750)
        .dir("bin/", 0o755)
        .file("bin/sh", "#!shell")
        .symlink("sh", "/bin/sh")
        .link("bin/bash", "bin/sh")
        .pax("mtime", "1500000000.25")
        .file("late", "x")
        .pax("path", &long)
        .file("short", "long name")
        .file("no/parents/here", "implied")
        .done();
    let image = world.unpack(&[layer]);
    assert_eq!(image.env[0], ("PATH".into(), "/bin".into()), "the environment is the image's");
    assert_eq!(image.env.len(), 2, "and nothing else of it counts");
    assert_eq!(world.read("bin/bash"), "#!shell");
    assert_eq!(world.read(&long), "long name");
    let meta = |name: &str| world.rootfs().join(name).symlink_metadata().unwrap();
    assert_eq!(meta("bin/sh").ino(), meta("bin/bash").ino());
    assert!(meta("sh").file_type().is_symlink());
    assert_eq!((meta("late").mtime(), meta("late").mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(meta("").mode() & 0o7777, 0o750);
    assert_eq!(meta("bin").mtime(), 1_600_000_000, "though files were made in it later");
    assert_eq!((meta("no").mtime(), meta("no/parents").mode() & 0o7777), (0, 0o755));
}

#[test]
fn upper_layers_hide_and_replace() {
    let world = World::new();
    let lower = Tar::new()
        .file("keep", "lower")
        .file("gone", "lower")
        .pax("path", "g".repeat(255))
        .file("long", "")
        .file("opaque/a", "lower")
        .file("opaque/sub/b", "lower")
        .file("tree/deep/er", "lower")
        .file("file", "lower")
        .file("was-dir/x", "lower")
        .symlink("was-link", "/keep")
        .done();
    let upper = Tar::new()
        .file(".wh.gone", "")
        .pax("path", format!(".wh.{}", "g".repeat(255)))
        .file(".wh.long", "")
        .file("opaque/new", "upper")
        .file("opaque/sub/kept", "upper")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh.tree", "")
        .file("tree/again", "upper")
        .file("file", "upper")
        .file("was-dir", "upper")
        .file("was-link", "upper")
        .file(".wh..wh.plnk", "")
        .file(".wh.never-there", "")
        .done();
    world.unpack(&[lower, upper]);
    for gone in ["gone", "opaque/a", "opaque/sub/b", "tree/deep", ".wh.gone", ".wh..wh.plnk"] {
        assert!(!world.exists(gone), "{gone}");
    }
    assert!(!world.exists(&"g".repeat(255)), "the longest name");
    for upper in ["opaque/new", "opaque/sub/kept", "tree/again", "file", "was-dir", "was-link"] {
        assert_eq!(world.read(upper), "upper", "{upper}");
    }
    assert_eq!(world.read("keep"), "lower", "a file is not written through a link in its place");
}

#[test]
fn a_replaced_file_leaves_its_other_names_alone() {
    let world = World::new();
    let lower = Tar::new().file("a", "lower").link("b", "a").done();
    let upper = Tar::new().file("a", "upper").link("c", "b").done();
    world.unpack(&[lower, upper]);
    assert_eq!(
        (world.read("a"), world.read("b"), world.read("c")),
        ("upper".into(), "lower".into(), "lower".into())
    );
}

#[test]
fn links_on_the_way_lead_where_they_would_in_the_image() {
    let world = World::new();
    let lower = Tar::new()
        .dir("usr/lib/", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("usr/up", "../../../../usr/lib")
        .symlink("chain", "abs/../up")
        .symlink("dangling", "made/later")
        .done();
    let upper = Tar::new()
        .file("lib/a", "1")
        .file("abs/b", "2")
        .file("usr/up/c", "3")
        .file("chain/d", "4")
        .file("dangling/e", "5")
        .file("lib/.wh.gone", "")
        .link("linked", "abs/a")
        .done();
    world.unpack(&[lower, upper]);
    for (name, text) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
        assert_eq!(world.read(&format!("usr/lib/{name}")), text);
    }
    assert_eq!(world.read("made/later/e"), "5");
    assert_eq!(world.read("linked"), "1");
}

#[test]
fn nothing_outside_of_the_tree_is_touched() {
    let world = World::new();
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "mine").unwrap();
    let out = outside.display().to_string();
    let up = "../".repeat(20);
    let layer = Tar::new()
        .symlink("link", &out)
        .file("link/new", "x")
        .file("link/precious", "theirs")
        .symlink("up", &format!("{up}{}", &out[1..]))
        .file("up/new", "x")
        .symlink("precious", &format!("{out}/precious"))
        .file("precious", "theirs")
        .dir("up/", 0o777)
        .done();
    let upper = Tar::new().file("link/.wh.precious", "").file("link/.wh..wh..opq", "").done();
    world.unpack(&[layer, upper]);
    assert_eq!(common_names(&outside), ["precious"]);
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "mine");
}

fn common_names(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn hostile_layers_are_refused_by_name() {
    let world = World::new();
    let check = |layer: Tar, expected: &str| {
        let lower = Tar::new().file("file", "x").dir("dir/", 0o755).done();
        let error = world.unpack_error(&[lower, layer.done()]);
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    };
    let file = |path: &str| Tar::new().file(path, "x");
    check(file("../escape"), "`../escape` leads out of the image");
    check(file("a/../../b"), "`a/../../b` leads out of the image");
    check(Tar::new().symlink("/", "x"), "would replace the root of the image");
    check(Tar::new().pax("path", "zero\0byte").file("x", ""), "has a zero byte in its name");
    check(file("file/below"), "lies below something that is no directory");
    check(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""), "loop of links");
    check(Tar::new().link("new", "../outside"), "links out of the image");
    check(Tar::new().link("new", "/etc/passwd"), "links to something that is not there");
    check(Tar::new().link("new", "dir"), "is a hard link to a directory");
    check(Tar::new().link("file", "file"), "links to itself");
    check(file(".wh.."), "hides no name");
    check(file(".wh..."), "hides no name");
    check(file(".wh."), "hides no name");
    check(Tar::new().pax("uid", "4294967296").file("x", ""), "no user can have");
    check(Tar::new().pax("path", "d/".repeat(600)).file("x", ""), "lies too deep");
    check(Tar::new().pax("GNU.sparse.major", "1").file("x", ""), "sparse");
    check(Tar::new().entry(EntryType::new(b'Z'), "x", "", b""), "unknown type");
    check(Tar::new().raw(&[7; 512]), "damaged");
    let most = u64::MAX.to_string();
    check(Tar::new().pax("size", &most).file("x", ""), "larger than any file can be");
    let mut long = Tar::new();
    long.header(EntryType::XHeader, "pax", "", 1 << 40, 0o644);
    check(long, "too long");
    let big = "x".repeat(1_000_000);
    let three = Tar::new().pax("comment", &big).pax("comment", &big).pax("comment", &big);
    check(three.file("x", ""), "too long together");
    check(Tar::new().pax("path", "n".repeat(256)).file("x", ""), "has a name that is too long");
    let path = format!("{}/", "n".repeat(200)).repeat(21);
    check(Tar::new().pax("path", &path).file("x", ""), "has a path that is too long");
    // Links lead to where no path can: each of these is as long as it may be.
    let deep = format!("{}/", "n".repeat(200)).repeat(19);
    let far = Tar::new().pax("path", &deep).dir("x", 0o755).pax("linkpath", &deep);
    check(far.symlink("l", "").pax("path", format!("l/{deep}x")).file("x", ""), "too long");
    assert_eq!(world.read("file"), "x", "what came before the bad entry stays for nobody to use");
}

#[test]
fn what_is_too_large_is_refused_before_it_is_written() {
    let world = World::limited(10_000, 50);
    let big = Tar::new().file("a", vec![0; 6000]).file("b", vec![0; 6000]).done();
    assert!(world.unpack_error(&[big]).contains("is larger than the limit of 10000 bytes"));
    assert!(!world.exists("b"));
    let mut said = Tar::new();
    said.header(EntryType::Regular, "huge", "", 1 << 42, 0o644);
    assert!(world.unpack_error(&[said.done()]).contains("is larger than the limit"));
    assert!(!world.exists("huge"));
    let many = (0..60).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), ""));
    assert!(world.unpack_error(&[many.done()]).contains("limit of 50 files"));
    let implied = Tar::new().pax("path", "d/".repeat(60)).dir("x", 0o755);
    assert!(world.unpack_error(&[implied.done()]).contains("limit of 50 files"));
    // A small file that unpacks to very much.
    let bomb = vec![0; 50 << 20];
    let layout = world.layout("bomb").image("a", &common::host(), &[(gzip(&bomb), bomb)]);
    assert!(fs::metadata(layout.path.join("index.json")).is_ok());
    let padded = Tar::new().file("a", "").done();
    let bomb = [padded, vec![0; 50 << 20]].concat();
    let layout = world.layout("bomb2").image("a", &common::host(), &[(gzip(&bomb), bomb)]);
    assert!(world.fetch_error(&layout.name()).contains("a layer is larger than the limit"));
}

#[test]
fn devices_are_left_out_and_said() {
    let world = World::new();
    let layer = Tar::new()
        .entry(EntryType::Char, "dev/null", "", b"")
        .entry(EntryType::Block, "dev/sda", "", b"")
        .file("file", "x")
        .done();
    let layout = world.layout("layout").plain(&[layer]);
    let (image, log) = world.fetch(&layout.name());
    image.unwrap();
    assert!(log.contains("Left out `dev/null`: it is a device"), "{log}");
    assert!(!world.exists("dev/null") && !world.exists("dev/sda") && world.exists("file"));
    let many = (0..25)
        .fold(Tar::new(), |tar, n| tar.entry(EntryType::Char, &format!("dev/tty{n}"), "", b""));
    let layout = world.layout("many").plain(&[many.done()]);
    let (_, log) = world.fetch(&layout.name());
    assert!(log.contains("`dev/tty19`") && !log.contains("`dev/tty20`"), "{log}");
    assert!(log.contains("Left out 5 more of them"), "{log}");
}

#[test]
fn devices_are_made_for_those_who_ask_and_may() {
    let world = World::with(|settings| settings.unpack.devices = true);
    let layer = Tar::new()
        .pax("uid", "12345")
        .pax("gid", "12345")
        .entry(EntryType::Char, "dev/zero", "", b"")
        .file("file", "x")
        .done();
    let layout = world.layout("layout").plain(&[layer]);
    let (image, log) = world.fetch(&layout.name());
    match (is_root(), image) {
        (true, Ok(_)) => {
            let meta = fs::symlink_metadata(world.rootfs().join("dev/zero")).unwrap();
            assert!(std::os::unix::fs::FileTypeExt::is_char_device(&meta.file_type()));
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, 0o600));
        }
        (true, Err(error)) => eprintln!("SKIP: no devices can be made here: {error}"),
        (false, image) => {
            image.unwrap();
            assert!(log.contains("Left out `dev/zero`"), "{log}");
        }
    }
}

#[test]
fn modes_that_forbid_to_go_on_are_set_last() {
    let world = World::new();
    let layer = Tar::new()
        .dir("closed/", 0o000)
        .file("closed/file", "x")
        .dir("closed/deeper/", 0o500)
        .file("closed/deeper/file", "x")
        .done();
    let upper = Tar::new().file("closed/deeper/other", "x").file("closed/.wh.file", "").done();
    world.unpack(&[layer, upper]);
    let mode =
        |name: &str| fs::metadata(world.rootfs().join(name)).map(|meta| meta.mode() & 0o7777);
    assert_eq!(mode("closed").unwrap(), 0);
    fs::set_permissions(world.rootfs().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(mode("closed/deeper").unwrap(), 0o500);
    assert!(world.exists("closed/deeper/other") && !world.exists("closed/file"));
}

#[test]
fn owners_setuid_and_attributes_are_kept_where_the_caller_may() {
    let world = World::new();
    let mut layer = Tar::new()
        .pax("uid", "12345")
        .file("theirs", "x")
        .pax("SCHILY.xattr.user.note", b"line\nline")
        .file("noted", "x")
        .pax("uid", "12345");
    layer.header(EntryType::Regular, "setuid", "", 0, 0o4755);
    world.unpack(&[layer.done()]);
    let meta = |name: &str| fs::metadata(world.rootfs().join(name)).unwrap();
    if is_root() {
        assert_eq!((meta("theirs").uid(), meta("setuid").uid()), (12345, 12345));
        assert_eq!(meta("setuid").mode() & 0o7777, 0o4755);
    } else {
        assert_eq!(meta("setuid").mode() & 0o7777, 0o755, "not ours to give away");
    }
    let mut value = [0; 64];
    let read = rustix::fs::getxattr(world.rootfs().join("noted"), "user.note", &mut value[..]);
    match read {
        Ok(length) => assert_eq!(&value[..length], b"line\nline"),
        Err(error) => eprintln!("SKIP: extended attributes cannot be had here: {error}"),
    }
}

#[test]
fn the_acl_for_new_files_is_not_for_those_of_the_image() {
    let world = World::new();
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, allowed, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 7, 54_321),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 5, u32::MAX),
    ] {
        acl.extend([tag.to_le_bytes(), allowed.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_default";
    let layer = Tar::new()
        .pax(&format!("SCHILY.xattr.{name}"), &acl)
        .dir("dir/", 0o755)
        .file("dir/file", "x")
        .dir("dir/sub/", 0o755)
        .done();
    let upper = Tar::new().file("dir/upper", "x").done();
    world.unpack(&[layer, upper]);
    let get = |path: &str, name: &str| {
        rustix::fs::getxattr(world.rootfs().join(path), name, &mut [0; 256][..])
    };
    match get("dir", name) {
        Ok(length) => assert_eq!(length, acl.len()),
        Err(error) => return eprintln!("SKIP: ACLs cannot be had here: {error}"),
    }
    for path in ["dir/file", "dir/sub", "dir/upper"] {
        assert!(get(path, "system.posix_acl_access").is_err(), "{path}");
        assert!(get(path, name).is_err(), "{path}");
    }
}

#[test]
fn the_root_of_the_tree_stays_the_callers() {
    let world = World::new();
    let layer = Tar::new()
        .pax("uid", "12345")
        .pax("gid", "12345")
        .dir("./", 0o6750)
        .pax("uid", "12345")
        .dir("sub/", 0o755)
        .done();
    world.unpack(&[layer]);
    let meta = fs::metadata(world.rootfs()).unwrap();
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((meta.uid(), meta.gid()), me, "an image says to whom its tree was given");
    assert_eq!(meta.mode() & 0o7777, 0o750);
}

#[test]
fn a_link_left_in_place_of_the_tree_is_not_followed() {
    let world = World::new();
    fs::create_dir(world.path("elsewhere")).unwrap();
    let layout = world.layout("layout").plain(&[Tar::new().file("a", "x").done()]);
    symlink(world.path("elsewhere"), world.rootfs()).unwrap();
    fs::remove_file(world.rootfs()).unwrap();
    world.fetch_ok(&layout.name());
    assert!(common_names(&world.path("elsewhere")).is_empty());
}

#[test]
fn deep_trees_are_unpacked_replaced_and_hidden() {
    let world = World::new();
    let deep = "d/".repeat(500);
    let lower = Tar::new().pax("path", format!("top/{deep}file")).file("x", "deep").done();
    let upper = Tar::new()
        .file(".wh.top", "")
        .pax("path", format!("new/{deep}file"))
        .file("x", "deep")
        .done();
    world.unpack(&[lower, upper]);
    assert!(!world.exists("top") && world.exists("new/d/d/d"));
    assert_eq!(common_names(&world.rootfs()), ["new"]);
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// Changes a few bytes of `archive`, and makes the checksums of all its blocks right again, so that what was changed is believed.
fn twisted(archive: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = archive.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        bytes[at] = match numbers.below(6) {
            0 => 0,
            1 => b'.',
            2 => b'/',
            3 => b'0' + numbers.below(8) as u8,
            4 => 0xff,
            _ => numbers.below(256) as u8,
        };
        let block = &mut bytes[at / 512 * 512..][..512];
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

#[test]
fn whatever_an_archive_says_nothing_outside_is_touched() {
    let world = World::limited(1 << 20, 1000);
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "mine").unwrap();
    let lower = Tar::new()
        .dir("dir/", 0o755)
        .file("dir/file", "lower")
        .symlink("out", &outside.display().to_string())
        .symlink("up", "../outside")
        .done();
    let upper = Tar::new()
        .file("dir/file", "upper")
        .link("dir/other", "dir/file")
        .pax("mtime", "1500000000.25")
        .pax("SCHILY.xattr.user.note", b"note")
        .file("out/precious", "theirs")
        .symlink("dir/link", "/outside")
        .file("up/.wh.precious", "")
        .file("dir/.wh..wh..opq", "")
        .entry(EntryType::Fifo, "fifo", "", b"")
        .entry(EntryType::GNULongName, "long", "", format!("{}file", "n/".repeat(60)).as_bytes())
        .file("short", "x")
        .dir("out/", 0o700)
        .done();
    let (mut numbers, mut good) = (Numbers(7), 0);
    world.unpack(&[lower.clone(), upper.clone()]);
    for round in 0..40 {
        let layout = world.layout("layout").plain(&[lower.clone(), twisted(&upper, &mut numbers)]);
        good += u32::from(world.fetch(&layout.name()).0.is_ok());
        assert_eq!(common_names(&outside), ["precious"], "round {round}");
        let text = fs::read_to_string(outside.join("precious")).unwrap();
        assert_eq!(text, "mine", "round {round}");
    }
    assert!((4..40).contains(&good), "{good} of 40 archives were taken, so that this shows little");
    let mut names = common_names(world.dir.path());
    names.sort();
    assert_eq!(names, ["layout", "outside", "rootfs"]);
}
