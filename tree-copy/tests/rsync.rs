//! Copies of awkward trees hold what the originals hold, as the real `rsync` sees it.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tree_copy::testing::{make_awkward, make_deep, make_ordinary};
use tree_copy::{Copied, How, Options, copy_tree, digest_tree, remove_tree, tree_size};

/// What `rsync` would still have to change to make `b` the same as `a`.
fn differences(a: &Path, b: &Path) -> Option<String> {
    let slash = |path: &Path| format!("{}/", path.display());
    let output = Command::new("rsync")
        .args(["-aHAXS", "--dry-run", "--itemize-changes", "--delete", "--checksum"])
        .args([slash(a), slash(b)])
        .output();
    match output {
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "rsync failed: {error}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => {
            eprintln!("SKIP: rsync is not installed");
            None
        }
    }
}

/// A temporary directory that goes away whatever modes are in it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_tree(&self.path("a")).unwrap();
        remove_tree(&self.path("b")).unwrap();
    }
}

fn check(dir: &Scratch, options: &Options<'_>) -> Copied {
    let (a, b) = (dir.path("a"), dir.path("b"));
    let copied = copy_tree(&a, &b, options).unwrap();
    if let Some(found) = differences(&a, &b) {
        assert_eq!(found, "", "rsync finds differences");
    }
    if copied.lost_owners == 0 {
        assert_eq!(digest_tree(&a, None).unwrap(), digest_tree(&b, None).unwrap());
    }
    copied
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_of_entry_is_copied(seed: u64, entries in 0_usize..400, threads in 1_usize..4) {
        let dir = Scratch::new();
        make_awkward(&dir.path("a"), entries, seed).unwrap();
        check(&dir, &Options { threads: Some(threads), ..Options::default() });
        prop_assert!(remove_tree(&dir.path("a")).is_ok());
        prop_assert!(!dir.path("a").exists());
    }
}

#[test]
fn the_proof_sees_what_a_bad_copy_would_lose() {
    let dir = Scratch::new();
    make_awkward(&dir.path("a"), 50, 7).unwrap();
    std::fs::write(dir.path("a").join("file"), "x").unwrap();
    check(&dir, &Options::default());
    let spoilt = dir.path("b").join("file");
    std::fs::set_permissions(&spoilt, std::fs::Permissions::from_mode(0o601)).unwrap();
    if let Some(found) = differences(&dir.path("a"), &dir.path("b")) {
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    assert_ne!(digest_tree(&dir.path("a"), None).ok(), digest_tree(&dir.path("b"), None).ok());
}

#[test]
fn an_ordinary_tree_is_copied_whole() {
    let dir = Scratch::new();
    make_ordinary(&dir.path("a"), 3000, 30_000_000, 1).unwrap();
    let copied = check(&dir, &Options { how: How::TryReflink, ..Options::default() });
    assert_eq!(copied.entries, 3000);
    let (a, b) = (tree_size(&dir.path("a")).unwrap(), tree_size(&dir.path("b")).unwrap());
    let (a, b) = (a.allocated, b.allocated);
    assert!(b <= a + a / 50, "the copy takes {b} bytes, the original {a}");
}

#[test]
fn holes_stay_holes() {
    let dir = Scratch::new();
    std::fs::create_dir(dir.path("a")).unwrap();
    let file = std::fs::File::create(dir.path("a").join("sparse")).unwrap();
    file.set_len(80 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 50 << 20).unwrap();
    let copied = check(&dir, &Options::default());
    assert!(copied.bytes < 1 << 20);
    assert!(std::fs::metadata(dir.path("b").join("sparse")).unwrap().blocks() < 1000);
}

#[test]
fn a_directory_with_many_files_is_copied_in_pieces() {
    let dir = Scratch::new();
    std::fs::create_dir(dir.path("a")).unwrap();
    for number in 0..3000 {
        std::fs::write(dir.path("a").join(number.to_string()), number.to_string()).unwrap();
    }
    std::fs::create_dir(dir.path("a").join("sub")).unwrap();
    check(&dir, &Options { threads: Some(4), ..Options::default() });
}

#[test]
fn a_tree_deeper_than_any_path_is_copied_and_removed() {
    let dir = Scratch::new();
    make_deep(&dir.path("a"), 2000).unwrap();
    let copied = copy_tree(&dir.path("a"), &dir.path("b"), &Options::default()).unwrap();
    assert_eq!(copied.entries, 2000);
    assert_eq!(
        digest_tree(&dir.path("a"), None).unwrap(),
        digest_tree(&dir.path("b"), None).unwrap()
    );
    remove_tree(&dir.path("b")).unwrap();
    assert!(!dir.path("b").exists());
}
