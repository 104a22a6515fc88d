//! Repositories and commits that mean harm.

use std::fs;

use git_context::Limits;

use crate::fixture::*;

const SOME: &str = "1234567890123456789012345678901234567890";

/// A submodule with this URL; the error must hold `expected`, and nothing must have been run.
fn submodule_fails(url: &str, expected: &str) {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let url = url.replace("TOUCH", &format!("touch {}/touched", fixture.repos().display()));
    let commit = repo.add_submodule("sub", &url, SOME);
    let (error, log) = fail(&fixture.contexts(), &repo.url(), &[&commit]);
    assert!(error.contains(expected), "{url}: {error}\n{log}");
    assert!(!fixture.repos().join("touched").exists());
    assert!(fixture.left().is_empty());
}

#[test]
fn submodules_that_run_programs_or_lead_elsewhere() {
    submodule_fails("\"ext::sh -c TOUCH\"", "is refused");
    submodule_fails("ext::TOUCH", "of the submodule `sub`");
    submodule_fails("--upload-pack=TOUCH", "is refused");
    submodule_fails("-oProxyCommand=x:y", "like an option");
    submodule_fails("/etc", "no protocol");
    submodule_fails("file:///etc", "no repository from that directory");
    submodule_fails("ssh://-oProxyCommand=id/x", "no name of a host");
    submodule_fails("ssh://host/x", "has no key for ssh");
    submodule_fails("../../../../../../../../../../etc", "climbs out");
    submodule_fails("\"https://host/x\\ny\"", "control character");
}

#[test]
fn urls_and_commits_are_refused_before_anything_is_made() {
    let fixture = Fixture::new();
    let contexts = fixture.contexts();
    for (url, commit) in [
        ("ext::sh -c id", SOME),
        ("https://host/x", "--output=/tmp/x"),
        ("https://host/x", "HEAD"),
        ("https://host/x\n", SOME),
        ("file:///etc", SOME),
    ] {
        let (error, log) = fail(&contexts, url, &[commit]);
        assert!(error.contains("is refused") && log.is_empty(), "{error}: {log}");
    }
    let outside = tempfile::tempdir_in(fixture.dir.path()).unwrap();
    std::os::unix::fs::symlink(outside.path(), fixture.repos().join("link")).unwrap();
    let url = format!("file://{}/link", fixture.repos().display());
    assert!(fail(&contexts, &url, &[SOME]).0.contains("no repository from that directory"));
    assert!(fixture.mirrors().is_empty() && fixture.left().is_empty());
}

/// A tree made by hand, which the ordinary commands would not make.
fn tree_fails(make: impl FnOnce(&Repo) -> String, expected: &str) {
    let mut fixture = Fixture::new();
    fixture.config.limits.entries = 20_000;
    let repo = fixture.repo("repo");
    let lines = make(&repo);
    let commit = repo.commit_tree(&lines);
    let contexts = fixture.contexts();
    let (error, log) = fail(&contexts, &repo.url(), &[&commit]);
    assert!(error.contains(expected), "{error}\n{log}");
    assert!(fixture.left().is_empty() && !log.contains("anew"));
    drop(get(&contexts, &repo.url(), &[&repo.head()]));
}

#[test]
fn trees_that_write_where_they_should_not() {
    for name in [".git", ".GIT", "git~1", ".g\u{200c}it", "..", "."] {
        let nested = |repo: &Repo| {
            let blob = repo.blob("#!/bin/sh\n");
            let tree = repo.git_with(&["mktree"], format!("100755 blob {blob}\tx\n").as_bytes());
            format!("040000 tree {tree}\t{name}\n")
        };
        tree_fails(nested, "is refused");
    }
    let through_a_link = |repo: &Repo| {
        let (target, blob) = (repo.blob("/tmp"), repo.blob("x"));
        let tree = repo.git_with(&["mktree"], format!("100644 blob {blob}\tpwned\n").as_bytes());
        format!("120000 blob {target}\tLink\n040000 tree {tree}\tlink\n")
    };
    tree_fails(through_a_link, "differs from it in case alone");
    let modules_is_a_link = |repo: &Repo| {
        let target = repo.blob("[submodule \"x\"]\npath = sub\nurl = ext::id\n");
        format!("120000 blob {target}\t.gitmodules\n160000 commit {SOME}\tsub\n")
    };
    tree_fails(modules_is_a_link, "it is a link");
}

#[test]
fn a_tree_that_says_it_is_endless() {
    let grow = |repo: &Repo| {
        let mut line = format!("100644 blob {}", repo.blob("x"));
        for _ in 0..9 {
            let lines: String = (0..10).map(|n| format!("{line}\t{n}\n")).collect();
            line = format!("040000 tree {}", repo.git_with(&["mktree"], lines.as_bytes()));
        }
        format!("{line}\tx\n")
    };
    tree_fails(grow, "what the job checks out is larger than the limit of 20000 entries");
}

#[test]
fn a_small_tree_of_endless_directories() {
    let grow = |repo: &Repo| {
        let mut line = format!("100644 blob {}", repo.blob("x"));
        for _ in 0..250 {
            let tree = repo.git_with(&["mktree"], format!("{line}\td\n").as_bytes());
            line = format!("040000 tree {tree}");
        }
        (0..100).map(|n| format!("{line}\t{n}\n")).collect()
    };
    tree_fails(grow, "what the job checks out is larger than the limit of 20000 entries");
}

#[test]
fn links_out_of_the_tree_stay_links() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    std::os::unix::fs::symlink("../../../../etc", repo.path.join("out")).unwrap();
    let commit = repo.commit("x", "x");
    fs::remove_file(repo.path.join("out")).unwrap();
    let dir = repo.commit("out/file", "inside\n");
    let contexts = fixture.contexts();
    let (context, _) = get(&contexts, &repo.url(), &[&commit]);
    assert!(context.path().join("out").symlink_metadata().unwrap().is_symlink());
    let (context, _) = get(&contexts, &repo.url(), &[&commit, &dir]);
    assert_eq!(read(&context, "out/file"), "inside\n");
    assert!(!context.path().join("out").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_submodule_behind_a_link() {
    let fixture = Fixture::new();
    let inner = fixture.repo("inner");
    let repo = fixture.repo("repo");
    let target = repo.blob(&fixture.repos().display().to_string());
    let url = inner.url();
    let modules = repo.blob(&format!("[submodule \"x\"]\npath = link/sub\nurl = {url}\n"));
    let tree = repo.git_with(
        &["mktree", "--missing"],
        format!("160000 commit {}\tsub\n", inner.head()).as_bytes(),
    );
    // Two entries of one name: which one is written first is Git's business.
    let commit = repo.commit_tree(&format!(
        "100644 blob {modules}\t.gitmodules\n120000 blob {target}\tlink\n040000 tree {tree}\tlink\n"
    ));
    let (error, log) = fail(&fixture.contexts(), &repo.url(), &[&commit]);
    assert!(error.contains("is refused"), "{error}: {log}");
    assert!(!fixture.repos().join("sub").exists());
}

#[test]
fn too_many_submodules() {
    let mut fixture = Fixture::new();
    fixture.config.limits = Limits { submodules: 2, depth: 1, ..Limits::default() };
    let inner = fixture.repo("inner");
    let middle = fixture.repo("middle");
    middle.add_submodule("inner", &inner.url(), &inner.head());
    let outer = fixture.repo("outer");
    let deep = outer.add_submodule("a", &middle.url(), &middle.head());
    let contexts = fixture.contexts();
    let (error, _) = fail(&contexts, &outer.url(), &[&deep]);
    assert!(
        error.contains("the chain of submodules in submodules is larger than the limit of 1"),
        "{error}"
    );
    let wide = fixture.repo("wide");
    for path in ["a", "b", "c"] {
        wide.add_submodule(path, &inner.url(), &inner.head());
    }
    let (error, _) = fail(&contexts, &wide.url(), &[&wide.head()]);
    assert!(error.contains("the job is larger than the limit of 2 submodules"), "{error}");
}
