use proptest::prelude::*;

use super::*;

const OBJECT: &str = "0123456789abcdef0123456789abcdef01234567";

fn tree(records: &[&str]) -> Result<Tree> {
    let mut tree = Tree::default();
    for record in records {
        tree.record(record.as_bytes())?;
    }
    tree.check_case()?;
    Ok(tree)
}

fn file(path: &str) -> String {
    format!("100644 blob {OBJECT}       5\t{path}")
}

fn link(path: &str) -> String {
    format!("120000 blob {OBJECT}       5\t{path}")
}

fn module(path: &str) -> String {
    format!("160000 commit {OBJECT}       -\t{path}")
}

#[test]
fn what_is_found() {
    let found =
        tree(&[&file(".gitmodules"), &link("a/out"), &module("b/sub"), &file("a/x\ty")]).unwrap();
    assert!(found.has_modules);
    assert_eq!(found.gitlinks, [("b/sub".into(), CommitId::parse(OBJECT).unwrap())]);
    assert!(tree(&[&link(".GitModules")]).is_err());
    assert!(!tree(&[&file("a/.gitmodules")]).unwrap().has_modules);
    let taken = Tree::default().record(file("x").as_bytes()).unwrap();
    assert_eq!(taken, Taken { size: 5, entries: 1 });
    assert!(Tree::default().record(b"100644 blob 1 BAD\tx").is_err());
}

#[test]
fn gits_own_files_in_every_disguise() {
    for path in [
        ".git/hooks/post-checkout",
        ".GIT/config",
        "a/.Git",
        ".g\u{200c}it/config",
        "git~1/config",
        "GIT~1",
        ".git /x",
        ".git.../x",
        ".git:$INDEX/x",
        ".git\\hooks/x",
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "./a",
    ] {
        let error = tree(&[&file(path)]).expect_err(path).to_string();
        assert!(error.contains("is refused"), "{path}: {error}");
    }
    for path in [".gitignore", ".gitmodules", "git~10", "x.git/y", ".github/x", "a\nb", "é/É"] {
        tree(&[&file(path)]).expect(path);
    }
}

#[test]
fn links_that_a_mac_takes_for_directories() {
    assert!(tree(&[&link("A"), &file("a/hooks")]).is_err());
    assert!(tree(&[&file("x/A/b/c"), &link("x/a")]).is_err());
    assert!(tree(&[&module("Ä"), &file("ä/x")]).is_err());
    assert!(tree(&[&link("a"), &file("b/x"), &file("A.txt"), &file("c")]).is_ok());
}

#[test]
fn the_allowance_ends_somewhere() {
    let limits = crate::Limits { files: 10, entries: 3, ..crate::Limits::default() };
    let mut allowance = Allowance { files: 10, entries: 3, listed: MOST_LISTED };
    let mut take =
        |size, entries, listed| allowance.take(&Taken { size, entries }, listed, &limits);
    take(10, 1, 10).unwrap();
    let error = take(1, 1, 10).unwrap_err().to_string();
    assert_eq!(error, "what the job checks out is larger than the limit of 10 bytes");
    let error = take(0, 0, MOST_LISTED as usize).unwrap_err().to_string();
    assert!(error.ends_with("bytes of paths"), "{error}");
    take(0, 1, 0).unwrap();
    assert!(take(0, 1, 0).is_err());
}

#[test]
fn directories_are_entries_too() {
    let mut tree = Tree::default();
    let mut entries = |path| tree.record(file(path).as_bytes()).unwrap().entries;
    assert_eq!(entries("a/b/c/x"), 4);
    assert_eq!(entries("a/b/c/y"), 1);
    assert_eq!(entries("a/b/x"), 1);
    assert_eq!(entries("a/d/x"), 2);
    // One directory on some disks, two on others.
    assert_eq!(entries("A/b/x"), 3);
}

#[test]
fn a_path_that_no_system_takes() {
    let deep = "d/".repeat(3000);
    let error = tree(&[&file(&deep)]).expect_err("too long").to_string();
    assert!(error.contains("longer than any system takes"), "{error}");
}

proptest! {
    #[test]
    fn no_path_leads_out(path in "[./a-cGgIiTt~1:\\\\ ]{0,12}") {
        if check_path(path.as_bytes()).is_ok() {
            prop_assert!(!path.starts_with('/'));
            prop_assert!(!path.split('/').any(|part| part == ".." || part.eq_ignore_ascii_case(".git")));
        }
    }
}

proptest! {
    #[test]
    fn any_record_is_read_or_refused(record in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Tree::default().record(&record);
    }
}
