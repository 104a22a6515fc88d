//! What a job gets, and what it reads in its log.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use git_context::{Error, Request};
use obuilder_core::Cancel;

use crate::fixture::*;

#[test]
fn the_first_commit_alone_in_a_directory_of_its_own() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let old = repo.head();
    repo.commit("dir/file", "two\n");
    let contexts = fixture.contexts();
    let (context, log) = get(&contexts, &repo.url(), &[&old]);
    assert_eq!(log, format!("HEAD is now at {} write file\n", &old[..7]));
    assert_eq!(listing(context.path()), [context.path().join("file")]);
    assert_eq!(read(&context, "file"), "one\n");
    for path in [context.path().to_owned(), context.path().join("file")] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o044, 0o044, "a build user can read {}", path.display());
    }
    let (again, log) = get(&contexts, &repo.url(), &[&old.to_uppercase()]);
    assert!(log.starts_with("All commits already cached\nHEAD is now at "), "{log}");
    assert_ne!(again.path(), context.path());
    context.discard().unwrap();
    assert_eq!(read(&again, "file"), "one\n");
    drop(again);
    assert_eq!(fixture.left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_build_user_can_read_it_whatever_the_umask() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    fs::write(repo.path.join("run"), "x").unwrap();
    fs::set_permissions(repo.path.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
    repo.commit("deep/er/file", "x");
    let (context, _) = get(&fixture.contexts(), &repo.url(), &[&repo.head()]);
    let mode =
        |file: &str| context.path().join(file).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(["run", "deep", "deep/er", "deep/er/file"].map(mode), [0o755, 0o755, 0o755, 0o644]);
    for dir in context.path().ancestors().take(4) {
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o1, 0o1, "{}", dir.display());
    }
    let mode = fs::metadata(fixture.config.state_dir.join("git/mirrors")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
}

#[test]
fn the_others_are_merged_into_it() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let base = repo.head();
    let one = repo.commit("one", "1\n");
    repo.git(&["checkout", "-q", "-b", "side", &base]);
    let two = repo.commit("two", "2\n");
    let contexts = fixture.contexts();
    let (context, log) = get(&contexts, &repo.url(), &[&base, &one, &two]);
    assert!(log.contains("Updating ") && log.contains("\nFast-forward\n"), "{log}");
    assert!(log.contains("Merge made by the 'ort' strategy.\n two | 1 +\n"), "{log}");
    assert_eq!((read(&context, "one"), read(&context, "two")), ("1\n".into(), "2\n".into()));
    assert!(!context.path().join(".git").exists());
}

#[test]
fn commits_that_do_not_merge() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let base = repo.head();
    let ours = repo.commit("file", "ours\n");
    repo.git(&["checkout", "-q", "-b", "side", &base]);
    let theirs = repo.commit("file", "theirs\n");
    repo.git(&["checkout", "-q", "--orphan", "other"]);
    let stranger = repo.commit("file", "stranger\n");
    let contexts = fixture.contexts();
    let (error, log) = fail(&contexts, &repo.url(), &[&ours, &theirs]);
    assert_eq!(error, "git-merge failed with exit-code 1");
    assert!(
        log.contains("CONFLICT (content): Merge conflict in file\nAutomatic merge failed;"),
        "{log}"
    );
    let generation = fs::metadata(fixture.mirror()).unwrap().modified().unwrap();
    let (prepared, log) = prepare(&contexts, &repo.url(), &[&ours, &stranger]);
    let error = prepared.unwrap_err();
    assert_eq!(error.to_string(), "git-merge failed with exit-code 128");
    assert_eq!(error.hint().unwrap(), "the commits have no history in common");
    assert!(log.contains("fatal: refusing to merge unrelated histories"), "{log}");
    assert!(
        !log.contains("anew")
            && fs::metadata(fixture.mirror()).unwrap().modified().unwrap() >= generation
    );
    assert!(fixture.left().is_empty());
}

#[test]
fn nothing_is_asked_for() {
    let fixture = Fixture::new();
    let request = Request::new("whatever it says", [], false).unwrap();
    let (context, log) = prepare_with(&fixture.contexts(), &request, &Cancel::new());
    assert!(listing(context.unwrap().path()).is_empty());
    assert_eq!(log, "");
}

#[test]
fn a_commit_that_is_not_there_costs_no_new_mirror() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let contexts = fixture.contexts();
    let gone = "1234567890123456789012345678901234567890";
    for _ in 0..2 {
        let (prepared, log) = prepare(&contexts, &repo.url(), &[&repo.head(), gone]);
        let error = prepared.unwrap_err();
        assert!(matches!(error, Error::NoCommit { .. }), "{error}: {log}");
        assert!(error.to_string().contains(gone) && error.hint().unwrap().contains("push"));
        assert!(!log.contains("anew"), "{log}");
    }
    assert!(!fixture.mirror().join("refs/remotes").exists(), "nor all branches");
    drop(get(&contexts, &repo.url(), &[&repo.head()]));
}

#[test]
fn a_commit_that_is_something_else() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let contexts = fixture.contexts();
    drop(get(&contexts, &repo.url(), &[&repo.head()]));
    let mirror = fs::metadata(fixture.mirror()).unwrap();
    for (name, expected) in [("HEAD^{tree}", "it is a tree"), ("HEAD:file", "it is a blob")] {
        let object = repo.git(&["rev-parse", name]);
        let (error, log) = fail(&contexts, &repo.url(), &[&object]);
        assert!(error.ends_with(expected), "{error}: {log}");
    }
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(fixture.mirror()).unwrap().ino(), mirror.ino());
    repo.git(&["tag", "-a", "-m", "annotated", "v1"]);
    let tag = repo.git(&["rev-parse", "v1"]);
    assert_eq!(read(&get(&contexts, &repo.url(), &[&tag]).0, "file"), "one\n");
}

#[test]
fn a_repository_that_is_not_there() {
    let fixture = Fixture::new();
    let url = format!("file://{}/none", fixture.repos().display());
    fs::create_dir(fixture.repos().join("none")).unwrap();
    let (error, log) =
        fail(&fixture.contexts(), &url, &["12345678901234567890123456789012345678ab"]);
    assert_eq!(error, "git-fetch failed with exit-code 128");
    assert!(log.contains("does not appear to be a git repository"), "{log}");
    assert_eq!(log.matches("fatal:").count(), 2, "said once: {log}");
}

#[test]
fn commits_on_pull_requests_and_merge_requests() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let main = repo.head();
    for name in ["refs/pull/1/head", "refs/merge-requests/2/head"] {
        let commit = repo.commit("file", name);
        repo.git(&["update-ref", name, &commit]);
        repo.git(&["reset", "-q", "--hard", &main]);
        let (context, _) = get(&fixture.contexts(), &repo.url(), &[&commit]);
        assert_eq!(read(&context, "file"), name);
    }
}

#[test]
fn a_repository_of_sha_256() {
    let fixture = Fixture::new();
    let repo = fixture.empty_repo("repo", "sha256");
    let commit = repo.commit("file", "long\n");
    assert_eq!(commit.len(), 64);
    let (context, _) = get(&fixture.contexts(), &repo.url(), &[&commit]);
    assert_eq!(read(&context, "file"), "long\n");
}

#[test]
fn git_can_be_left_in_it() {
    let fixture = Fixture::new();
    let inner = fixture.repo("inner");
    let repo = fixture.repo("repo");
    repo.git(&["tag", "v1"]);
    repo.git(&["branch", "other"]);
    let commit = repo.add_submodule("lib/sub", "../inner", &inner.head());
    let contexts = fixture.contexts();
    drop(get(&contexts, &repo.url(), &[&commit]));
    let request = Request::new(&repo.url(), [commit.as_str()], true).unwrap();
    let (context, log) = prepare_with(&contexts, &request, &Cancel::new());
    let context = context.unwrap_or_else(|error| panic!("{error}: {log}"));
    fs::rename(fixture.config.state_dir.join("git/mirrors"), fixture.dir.path().join("away"))
        .unwrap();
    let git = |args: &[&str]| Repo { path: context.path().to_owned() }.git(args);
    git(&["fsck", "--full", "--strict"]);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["rev-parse", "HEAD"]), commit);
    assert_eq!(git(&["describe", "--tags", "--abbrev=0"]), "v1");
    assert_eq!(git(&["branch", "-r"]).lines().count(), 2);
    assert_eq!(git(&["remote", "get-url", "origin"]), repo.url());
    let sub = Repo { path: context.path().join("lib/sub") };
    assert_eq!(sub.git(&["rev-parse", "HEAD"]), inner.head());
    sub.git(&["fsck", "--full"]);
}
