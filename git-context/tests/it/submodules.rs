//! Repositories in repositories.

use std::fs;

use crate::fixture::*;
use crate::server::{Kind, Server};

#[test]
fn filled_at_every_depth_and_fetched_once() {
    let fixture = Fixture::new();
    let inner = fixture.repo("inner");
    let middle = fixture.repo("middle");
    let inner_commit = inner.head();
    middle.add_submodule("deep/inner", "../../inner/.git", &inner_commit);
    let outer = fixture.repo("outer");
    let server = Server::start(&fixture.repos(), Kind::Daemon(vec![]));
    let url = server.url("git", "middle/.git");
    let commit = outer.add_submodule("lib", &url, &middle.head());
    let contexts = fixture.contexts();
    let (context, log) = get(&contexts, &server.url("git", "outer/.git"), &[&commit]);
    assert_eq!(read(&context, "lib/deep/inner/file"), "one\n");
    // What Git writes there is part of what a build copies.
    assert_eq!(read(&context, "lib/.git"), "gitdir: ../.git/modules/lib\n");
    let text = "gitdir: ../../../.git/modules/lib/modules/deep/inner\n";
    assert_eq!(read(&context, "lib/deep/inner/.git"), text);
    for line in [
        format!("Submodule 'lib' ({url}) registered for path 'lib'\n"),
        format!("Submodule path 'lib': checked out '{}'\n", middle.head()),
        format!("Submodule path 'lib/deep/inner': checked out '{inner_commit}'\n"),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }
    assert!(log.matches("HEAD is now").count() == 1, "{log}");
    let before = server.connections();
    drop(get(&contexts, &server.url("git", "outer/.git"), &[&commit]));
    assert_eq!(server.connections(), before, "all came from the mirrors");
    assert_eq!(fixture.mirrors().len(), 3);
}

/// What the original runs, in an ordinary clone, leaves the same files.
#[test]
fn the_same_files_as_gits_own_commands() {
    let fixture = Fixture::new();
    let inner = fixture.repo("inner");
    let middle = fixture.repo("middle");
    middle.add_submodule("deep/inner", &inner.url(), &inner.head());
    let outer = fixture.repo("outer");
    outer.commit(".gitattributes", "*.crlf eol=crlf\n*.id ident\n*.big filter=lfs\n");
    outer.commit("x.crlf", "a\n");
    outer.commit("x.id", "$Id$\n");
    outer.commit("x.big", "version https://git-lfs.github.com/spec/v1\n");
    std::os::unix::fs::symlink("/etc/passwd", outer.path.join("link")).unwrap();
    fs::create_dir(outer.path.join("sub dir")).unwrap();
    let commit = outer.add_submodule("sub dir/a b", &middle.url(), &middle.head());
    let clone = Repo { path: fixture.repos().join("clone") };
    fs::create_dir(&clone.path).unwrap();
    clone.git(&["init", "-q"]);
    clone.git(&["fetch", "-q", &outer.url(), "+refs/heads/*:refs/remotes/origin/*"]);
    clone.git(&["reset", "-q", "--hard", &commit]);
    let allowed = ["-c", "protocol.file.allow=always"];
    clone.git(&[&allowed[..], &["submodule", "-q", "update", "--init", "--recursive"]].concat());
    fs::rename(clone.path.join(".git"), fixture.repos().join("clone.git")).unwrap();
    let (context, _) = get(&fixture.contexts(), &outer.url(), &[&commit]);
    let mut diff = std::process::Command::new("diff");
    let diff = diff.args(["-r", "--no-dereference"]).arg(&clone.path).arg(context.path());
    let output = diff.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn merged_submodules_are_those_of_the_merge() {
    let fixture = Fixture::new();
    let inner = fixture.repo("inner");
    let repo = fixture.repo("repo");
    let base = repo.head();
    let one = repo.add_submodule("sub", &inner.url(), &inner.head());
    repo.git(&["reset", "-q", "--hard", &base]);
    let two = repo.commit("other", "x");
    let (context, _) = get(&fixture.contexts(), &repo.url(), &[&two, &one]);
    assert_eq!(read(&context, "sub/file"), "one\n");
    assert_eq!(read(&context, "other"), "x");
}

#[test]
fn one_without_a_url_and_one_that_is_skipped() {
    let fixture = Fixture::new();
    let inner = fixture.repo("inner");
    let repo = fixture.repo("repo");
    let commit = repo.add_submodule("sub", "https://127.0.0.1:1/x\n\tupdate = none", &inner.head());
    let contexts = fixture.contexts();
    let (context, log) = get(&contexts, &repo.url(), &[&commit]);
    assert!(listing(&context.path().join("sub")).is_empty());
    assert!(log.ends_with("Skipping submodule 'sub'\n"), "{log}");
    fs::remove_file(repo.path.join(".gitmodules")).unwrap();
    let commit = repo.commit("x", "x");
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},sub", inner.head())]);
    repo.git(&["commit", "-q", "--amend", "-m", "no url"]);
    assert_ne!(repo.head(), commit);
    let (error, log) = fail(&contexts, &repo.url(), &[&repo.head()]);
    assert_eq!(error, "git-submodule-update failed with exit-code 128");
    assert!(log.contains("fatal: No url found for submodule path 'sub' in .gitmodules\n"), "{log}");
}

#[test]
fn two_that_hold_each_other_do_not_wait_for_each_other() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.repo("a"), fixture.repo("b"));
    let (a_old, b_old) = (a.head(), b.head());
    let a_new = a.add_submodule("b", &b.url(), &b_old);
    let b_new = b.add_submodule("a", &a.url(), &a_old);
    let contexts = fixture.contexts();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| drop(get(&contexts, &a.url(), &[&a_new])));
            scope.spawn(|| drop(get(&contexts, &b.url(), &[&b_new])));
        }
    });
}
