//! Images in directories are found, copied whole, and known by what they hold.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use bstr::{BStr, BString};
use fetch_dir::{DirFetcher, ImageDir};
use obuilder_core::contracts::{Fetcher, Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};

struct Images {
    dir: tempfile::TempDir,
    fetcher: DirFetcher,
}

impl Images {
    /// With the image `ocaml`, which has an environment.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = ["first", "second", "missing"].map(|name| dir.path().join(name));
        fs::create_dir_all(images[0].join("ocaml/bin")).unwrap();
        fs::create_dir_all(&images[1]).unwrap();
        fs::write(images[0].join("ocaml/bin/ocaml"), "#!compiler").unwrap();
        fs::write(images[0].join("ocaml.env"), "# who\nOPAM=yes\nA=1\n").unwrap();
        Self { dir, fetcher: DirFetcher::new(images) }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("first/ocaml")
    }

    fn fetch_as(
        &self,
        name: &str,
        cancel: &Cancel,
    ) -> (Result<Image, FetchError>, PathBuf, String) {
        let rootfs = self.dir.path().join("rootfs");
        let _ = fs::remove_dir_all(&rootfs);
        fs::create_dir(&rootfs).unwrap();
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let image = self.fetcher.fetch(BStr::new(name), &rootfs, &log, cancel);
        log.finish();
        let (mut reader, mut text) = (log.reader(), Vec::new());
        let mut buffer = [0; 512];
        while let read @ 1.. = reader.read(&mut buffer, &Cancel::new()).unwrap() {
            text.extend_from_slice(&buffer[..read]);
        }
        (image, rootfs, String::from_utf8(text).unwrap())
    }

    fn fingerprint(&self, last: Option<&Fingerprint>) -> Fingerprint {
        self.fetcher.fingerprint(BStr::new("ocaml"), last).unwrap()
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(BString, BString)> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

#[test]
fn scratch_is_empty_and_says_nothing() {
    let images = Images::new();
    let (image, rootfs, log) = images.fetch_as("scratch", &Cancel::new());
    let image = image.unwrap();
    assert_eq!((image.env, log.as_str()), (Vec::new(), ""));
    assert_eq!(fs::read_dir(rootfs).unwrap().count(), 0);
    assert_eq!(image.fingerprint, images.fetcher.fingerprint(BStr::new("scratch"), None).unwrap());
}

#[test]
fn an_image_is_its_directory_and_its_environment() {
    let images = Images::new();
    fs::set_permissions(images.image().join("bin/ocaml"), Permissions::from_mode(0o751)).unwrap();
    let (image, rootfs, log) = images.fetch_as("ocaml", &Cancel::new());
    let image = image.unwrap();
    assert_eq!(image.env, env(&[("OPAM", "yes"), ("A", "1")]));
    assert_eq!(images.fetcher.environment(BStr::new("ocaml")).unwrap(), image.env);
    assert_eq!(fs::read_to_string(rootfs.join("bin/ocaml")).unwrap(), "#!compiler");
    let mode = fs::metadata(rootfs.join("bin/ocaml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o751);
    let at = fs::canonicalize(images.image()).unwrap();
    assert_eq!(log, format!("Importing image `ocaml` from `{}`\n", at.display()));
    assert_eq!(image.fingerprint, images.fingerprint(None));
}

#[test]
fn the_digest_follows_the_contents_and_the_stamp_any_change() {
    let images = Images::new();
    let first = images.fingerprint(None);
    assert_eq!(images.fingerprint(Some(&first)), first);
    let believed = Fingerprint { digest: "as last time".to_owned(), ..first.clone() };
    assert_eq!(images.fingerprint(Some(&believed)), believed, "an unchanged image is not read");
    fs::write(images.image().join("bin/ocaml"), "#!another").unwrap();
    let second = images.fingerprint(Some(&first));
    assert!(second.stamp != first.stamp && second.digest != first.digest);
    fs::write(images.image().join("bin/ocaml"), "#!compiler").unwrap();
    let third = images.fingerprint(Some(&second));
    assert!(third.stamp != first.stamp && third.digest == first.digest);
    fs::write(images.dir.path().join("first/ocaml.env"), "A=2\n").unwrap();
    let fourth = images.fingerprint(Some(&third));
    assert!(fourth.stamp != third.stamp && fourth.digest != third.digest);
}

#[test]
fn an_unknown_name_comes_with_the_known_ones_and_the_nearest() {
    let images = Images::new();
    fs::create_dir(images.dir.path().join("second/base")).unwrap();
    let ask = |name: &str| match images.fetcher.fingerprint(BStr::new(name), None) {
        Err(FetchError::Unknown { name, known, hint }) => (name.to_string(), known, hint),
        other => panic!("{other:?}"),
    };
    let known = ["base", "ocaml", "scratch"].map(str::to_owned).to_vec();
    assert_eq!(images.fetcher.known(), known);
    assert_eq!(ask("ocmal"), ("ocmal".to_owned(), known, "did you mean `ocaml`?".to_owned()));
    for name in
        ["", ".", "..", "../first/ocaml", "ocaml/bin", "/etc", "ubuntu:24.04", "x/y@sha256:0"]
    {
        assert_eq!(ask(name).0, name);
    }
    assert!(ask("ubuntu:24.04").2.contains("put a directory"));
}

#[test]
fn among_homes_only_what_is_declared_is_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let homes = dir.path().join("Users");
    for name in ["alice/.ssh", "macos", "both", ".hidden"] {
        fs::create_dir_all(homes.join(name)).unwrap();
    }
    fs::create_dir_all(dir.path().join("images/both/ours")).unwrap();
    fs::create_dir_all(dir.path().join("images/.hidden")).unwrap();
    for name in ["macos.env", ".hidden.env"] {
        fs::write(homes.join(name), "").unwrap();
    }
    let ours = dir.path().join("images");
    let fenced = ImageDir { path: homes.clone(), declared_only: true };
    let fetcher = DirFetcher::new([fenced, ours.into()]);
    assert_eq!(fetcher.known(), ["both", "macos", "scratch"]);
    let ask = |name: &str| match fetcher.fingerprint(BStr::new(name), None) {
        Err(FetchError::Unknown { hint, .. }) => Some(hint),
        other => other.map(|_| None).unwrap(),
    };
    assert_eq!((ask("macos"), ask("both")), (None, None));
    assert!(ask(".hidden").is_some());
    let alice = homes.join("alice");
    let hint = ask("alice").unwrap();
    assert!(hint.starts_with(&format!("`{}` may be somebody's home", alice.display())), "{hint}");
    assert!(hint.ends_with(&format!("`touch {}.env`", alice.display())), "{hint}");
    fs::write(homes.join("alice.env"), "").unwrap();
    assert_eq!(ask("alice"), None);
}

#[test]
fn the_first_directory_that_has_it_wins_and_links_are_followed_to_it() {
    let images = Images::new();
    fs::create_dir(images.dir.path().join("second/ocaml")).unwrap();
    symlink(images.image(), images.dir.path().join("second/alias")).unwrap();
    let (_, rootfs, _) = images.fetch_as("ocaml", &Cancel::new());
    assert!(rootfs.join("bin/ocaml").exists());
    let (image, rootfs, _) = images.fetch_as("alias", &Cancel::new());
    assert!(rootfs.join("bin/ocaml").exists());
    assert_eq!(image.unwrap().env, [], "an environment goes with the name");
}

#[test]
fn devices_are_left_out_and_said() {
    let images = Images::new();
    let deep = images.image().join("dev/deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "").unwrap();
    for (name, kind) in [("null", "c"), ("disk", "b")] {
        // The numbers of `null`, which does no harm, or of no block device.
        let made = Command::new("mknod").arg(deep.join(name)).args([kind, "1", "3"]).status();
        if !made.unwrap().success() {
            eprintln!("SKIP: no devices can be made");
            return;
        }
    }
    let (image, rootfs, log) = images.fetch_as("ocaml", &Cancel::new());
    assert_eq!(image.unwrap().fingerprint, images.fingerprint(None));
    let mut names: Vec<_> = fs::read_dir(rootfs.join("dev/deep")).unwrap().flatten().collect();
    names.sort_unstable_by_key(|entry| entry.file_name());
    assert_eq!(names.iter().map(|entry| entry.file_name()).collect::<Vec<_>>(), ["file"]);
    let at = fs::canonicalize(&deep).unwrap();
    for name in ["null", "disk"] {
        let line = format!("Left out `{}`: it is a device\n", at.join(name).display());
        assert!(log.contains(&line), "{log}");
    }
}

#[test]
fn a_bad_environment_says_where() {
    let images = Images::new();
    fs::write(images.dir.path().join("first/ocaml.env"), "A=1\nwhat\n").unwrap();
    let error = images.fetch_as("ocaml", &Cancel::new()).0.unwrap_err();
    assert_eq!(error.to_string(), "failed to read the environment of image `ocaml`");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("ocaml.env:2: expected `KEY=VALUE`"), "{cause}");
}

#[test]
fn a_cancelled_import_stops() {
    let images = Images::new();
    let cancel = Cancel::new();
    cancel.cancel();
    let (image, ..) = images.fetch_as("ocaml", &cancel);
    assert!(matches!(image, Err(FetchError::Cancelled(name)) if name == "ocaml"));
}

#[test]
fn an_image_that_does_not_stop_changing_is_an_error() {
    let images = Images::new();
    let changing = images.image().join("changing");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let round = std::sync::atomic::AtomicU64::new(0);
    for number in 0..500 {
        fs::write(images.image().join(number.to_string()), "x").unwrap();
    }
    let image = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let round = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                fs::write(&changing, round.to_string()).unwrap();
            }
        });
        while round.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let image = images.fetch_as("ocaml", &Cancel::new()).0;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        image
    });
    let error = image.unwrap_err();
    assert_eq!(error.to_string(), "failed to read image `ocaml`");
}
