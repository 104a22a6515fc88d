//! Nothing of the user's or the system's, and nothing that a repository brings along is run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::fixture::*;
use crate::server::{Kind, Server};

/// A script that leaves a mark at `mark` when it is run.
fn trap(path: &Path, mark: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\ntouch '{}'\ncat\n", mark.display())).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// This test runs itself again with an environment full of traps, as the environment belongs to the whole process.
#[test]
fn the_users_configuration_is_not_read() {
    const ROLE: &str = "GIT_CONTEXT_TEST_IN_TRAPS";
    if std::env::var_os(ROLE).is_some() {
        return get_among_traps();
    }
    let home = tempfile::tempdir().unwrap();
    let (mark, script) = (home.path().join("mark"), home.path().join("trap"));
    trap(&script, &mark);
    for hook in
        ["post-checkout", "post-merge", "reference-transaction", "pre-merge-commit", "commit-msg"]
    {
        trap(&home.path().join("hooks").join(hook), &mark);
        trap(&home.path().join("template/hooks").join(hook), &mark);
    }
    let run = script.display();
    let config = format!(
        "[core]\nhooksPath = {0}/hooks\nfsmonitor = {run}\nsshCommand = {run}\nattributesFile = {0}/attributes\n\
         [init]\ntemplateDir = {0}/template\n[credential]\nhelper = !{run}\n[filter \"x\"]\nsmudge = {run}\n\
         required = true\n[merge \"x\"]\ndriver = {run}\n[uploadpack]\npackObjectsHook = {run}\n\
         [url \"http://127.0.0.1:1/\"]\ninsteadOf = file://\ninsteadOf = http://\n",
        home.path().display()
    );
    for file in [".gitconfig", "git/config"] {
        fs::create_dir_all(home.path().join("git")).unwrap();
        fs::write(home.path().join(file), &config).unwrap();
    }
    for file in ["attributes", "git/attributes"] {
        fs::write(home.path().join(file), "* filter=x merge=x\n").unwrap();
    }
    fs::write(home.path().join(".netrc"), "machine 127.0.0.1 login me password s3cret\n").unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "isolation::the_users_configuration_is_not_read", "--nocapture"]);
    again.env(ROLE, "1").env("HOME", home.path()).env("XDG_CONFIG_HOME", home.path());
    for variable in
        ["GIT_SSH_COMMAND", "GIT_ASKPASS", "SSH_ASKPASS", "GIT_EXTERNAL_DIFF", "GIT_EDITOR"]
    {
        again.env(variable, &script);
    }
    again.env("GIT_CONFIG_SYSTEM", home.path().join(".gitconfig"));
    again.env("GIT_CONFIG_PARAMETERS", format!("'core.fsmonitor'='{run}'"));
    again.env("GIT_DIR", "/nonexistent").env("GIT_INDEX_FILE", "/nonexistent");
    again
        .env("GIT_TEMPLATE_DIR", home.path().join("template"))
        .env("http_proxy", "http://127.0.0.1:1");
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!mark.exists(), "something was run");
}

fn get_among_traps() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let base = repo.head();
    let ours = repo.commit("ours", "x\n");
    repo.git(&["checkout", "-q", "-b", "side", &base]);
    let theirs = repo.commit("theirs", "x\n");
    let contexts = fixture.contexts();
    let (context, _) = get(&contexts, &repo.url(), &[&ours, &theirs]);
    assert_eq!(read(&context, "theirs"), "x\n");
    let server =
        Server::start(&fixture.repos(), Kind::Guarded("Authorization: Basic bWU6czNjcmV0".into()));
    let (error, _) = fail(&contexts, &server.url("http", "repo/.git"), &[&ours]);
    assert!(error.contains("git-fetch failed"), "{error}");
    assert!(server.connections() > 0, "neither the proxy nor the other URL was used");
    assert!(!server.requests().contains("Authorization"), "{}", server.requests());
}

#[test]
fn what_a_repository_brings_along_is_not_run() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let mark = fixture.repos().join("mark");
    // Settings and hooks of the repository that is fetched from, and of files in it that look like some.
    for hook in ["post-checkout", "pre-upload", "post-upload"] {
        trap(&repo.path.join(".git/hooks").join(hook), &mark);
    }
    let script = repo.path.join("trap");
    trap(&script, &mark);
    let run = script.display().to_string();
    for (key, value) in [
        ("uploadpack.packObjectsHook", run.as_str()),
        ("core.fsmonitor", &run),
        ("filter.x.smudge", &run),
        ("merge.x.driver", &run),
        ("diff.x.textconv", &run),
        ("core.alternateRefsCommand", &run),
    ] {
        repo.git(&["config", key, value]);
    }
    let base = repo.commit(".gitattributes", "* filter=x merge=x diff=x\n*.lfs filter=lfs\n");
    repo.commit("hooks/post-checkout", &format!("#!/bin/sh\n{run}\n"));
    let ours = repo.commit("config", &format!("[core]\nfsmonitor = {run}\n"));
    repo.git(&["config", "--remove-section", "core"]);
    repo.git(&["config", "core.repositoryFormatVersion", "0"]);
    repo.git(&["checkout", "-q", "-b", "side", &base]);
    let _ = fs::remove_file(&mark);
    let theirs = repo.commit("x.lfs", "version https://git-lfs.github.com/spec/v1\n");
    let _ = fs::remove_file(&mark);
    let (context, _) = get(&fixture.contexts(), &repo.url(), &[&ours, &theirs]);
    assert_eq!(read(&context, "x.lfs"), "version https://git-lfs.github.com/spec/v1\n");
    assert!(!mark.exists(), "something was run");
}
