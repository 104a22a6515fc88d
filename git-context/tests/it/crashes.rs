//! Killed processes, broken mirrors.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use git_context::{Config, GitContexts, Request};
use obuilder_core::Cancel;

use crate::fixture::*;
use crate::server::{Kind, Server};

/// Everything in the mirror that is a pack, an object or a reference.
fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for path in listing(dir) {
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
}

fn packs(mirror: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    files(&mirror.join("objects"), &mut all);
    all.retain(|path| path.extension().is_some_and(|end| end == "pack"));
    all
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Breaks the mirror and gets an old and a new commit nevertheless.
fn heals(what: &str, damage: impl Fn(&Path)) {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let old = repo.commit("dir/file", "old\n");
    let contexts = fixture.contexts();
    drop(get(&contexts, &repo.url(), &[&old]));
    for commit in [old, repo.commit("dir/file", "new\n")] {
        damage(&fixture.mirror());
        let (prepared, log) = prepare(&contexts, &repo.url(), &[&commit]);
        let context = prepared.unwrap_or_else(|error| panic!("{what}: {}\n{log}", told(&error)));
        assert!(["old\n", "new\n"].contains(&read(&context, "dir/file").as_str()));
        let (_, log) = get(&contexts, &repo.url(), &[&commit]);
        assert!(log.starts_with("All commits already cached\n"), "{what}: {log}");
    }
    let beside = listing(fixture.mirror().parent().unwrap());
    let names: Vec<_> =
        beside.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["fetch.lock", "repo", "use.lock"], "{what}");
}

#[test]
fn broken_mirrors_are_made_anew() {
    heals("no HEAD", |mirror| fs::remove_file(mirror.join("HEAD")).unwrap());
    heals("an empty config", |mirror| fs::write(mirror.join("config"), "[core").unwrap());
    heals("no objects", |mirror| fs::remove_dir_all(mirror.join("objects")).unwrap());
    heals("no packs", |mirror| {
        packs(mirror).iter().for_each(|pack| fs::remove_file(pack).unwrap())
    });
    heals("cut packs", |mirror| {
        packs(mirror).iter().for_each(|pack| overwrite(pack, &fs::read(pack).unwrap()[..20]));
    });
    heals("flipped bits", |mirror| {
        for pack in packs(mirror) {
            let mut bytes = fs::read(&pack).unwrap();
            let end = bytes.len() - 20;
            bytes[12..end].iter_mut().for_each(|byte| *byte ^= 0x55);
            overwrite(&pack, &bytes);
        }
    });
    heals("a reference to nothing", |mirror| {
        fs::write(mirror.join("refs/heads/bad"), format!("{}\n", "1".repeat(40))).unwrap();
    });
    heals("an empty reference", |mirror| fs::write(mirror.join("refs/heads/bad"), "").unwrap());
}

#[test]
fn a_file_in_place_of_the_mirror() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let contexts = fixture.contexts();
    drop(get(&contexts, &repo.url(), &[&repo.head()]));
    fs::remove_dir_all(fixture.mirror()).unwrap();
    fs::write(fixture.mirror(), "").unwrap();
    drop(get(&contexts, &repo.url(), &[&repo.head()]));
}

/// Runs this test program again, to be killed: it gets the sources of what the environment names.
fn victim(state: &Path, url: &str, commit: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crashes::gets_sources_until_it_is_killed", "--nocapture"]);
    command.env("GIT_CONTEXT_TEST_STATE", state).env("GIT_CONTEXT_TEST_URL", url);
    command.env("GIT_CONTEXT_TEST_COMMIT", commit);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn gets_sources_until_it_is_killed() {
    let variable = |name: &str| std::env::var(format!("GIT_CONTEXT_TEST_{name}"));
    let Ok(state) = variable("STATE") else { return };
    let config = Config::new(state);
    let (url, commit) = (variable("URL").unwrap(), variable("COMMIT").unwrap());
    let contexts = GitContexts::open(config).unwrap();
    let request = Request::new(&url, [commit.as_str()], false).unwrap();
    let context = contexts.prepare(&request, &|_| Ok(()), &Cancel::new()).unwrap();
    std::io::stdout().flush().unwrap();
    // Until the caller kills this process or ends.
    let mut rest = String::new();
    let _ = std::io::stdin().read_line(&mut rest);
    drop(context);
}

#[test]
fn a_process_killed_in_the_middle_of_a_fetch() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let silent = Server::start(&fixture.repos(), Kind::Silent);
    let url = silent.url("git", "repo/.git");
    let mut child = victim(&fixture.config.state_dir, &url, &repo.head());
    wait_until("the fetch", || silent.connections() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = fixture.left();
    assert_eq!(left.len(), 1);
    // Its git still has the directory, and loses it when it ends.
    let contexts = fixture.contexts();
    let git = git_with_argument(&url);
    if !git.is_empty() {
        assert_eq!(fixture.left(), left, "in use");
        git.iter().for_each(|&pid| {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap()
        });
    }
    wait_until("the sweep", || !contexts.sweep().unwrap().is_empty() || fixture.left().is_empty());
    assert!(fixture.left().is_empty());
    assert!(listing(&fixture.config.state_dir.join("git/mirrors")).len() == 1);
}

#[test]
fn a_process_killed_with_a_context_in_hand() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let server = Server::start(&fixture.repos(), Kind::Daemon(vec![]));
    let url = server.url("git", "repo/.git");
    let mut child = victim(&fixture.config.state_dir, &url, &repo.head());
    let file = |path: &PathBuf| path.join("src/file").exists() && !path.join("git").exists();
    wait_until("the context", || {
        fixture.config.state_dir.join("git/contexts").exists() && fixture.left().iter().any(file)
    });
    let contexts = fixture.contexts();
    assert!(contexts.sweep().unwrap().is_empty() && fixture.left().len() == 1, "in use");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(contexts.sweep().unwrap().len(), 1);
    assert!(fixture.left().is_empty());
}

#[test]
fn processes_killed_at_any_moment() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let server = Server::start(&fixture.repos(), Kind::Daemon(vec![]));
    let url = server.url("git", "repo/.git");
    let commits: Vec<_> = (0..4).map(|n| repo.commit("file", &format!("{n}\n"))).collect();
    let state = &fixture.config.state_dir;
    for (round, delay) in [0, 5, 10, 15, 20, 30, 45, 70].into_iter().enumerate() {
        let mut children: Vec<_> =
            commits.iter().map(|commit| victim(state, &url, commit)).collect();
        wait_until("the first context", || {
            state.join("git/contexts").exists() && !fixture.left().is_empty()
        });
        std::thread::sleep(std::time::Duration::from_millis(delay));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let contexts = fixture.contexts();
        let (context, log) = get(&contexts, &url, &[&commits[round % 4]]);
        assert_eq!(read(&context, "file"), format!("{}\n", round % 4), "{log}");
        drop(context);
        wait_until("the sweep", || contexts.sweep().is_ok() && fixture.left().is_empty());
    }
    Repo { path: fixture.mirror() }.git(&["fsck", "--full"]);
}

#[test]
fn what_a_killed_git_left_in_the_mirror_is_in_nobodys_way() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let contexts = fixture.contexts();
    drop(get(&contexts, &repo.url(), &[&repo.head()]));
    let mirror = fixture.mirror();
    let commit = repo.commit("file", "two\n");
    let recent = format!("refs/recent/{}.lock", &commit[..3]);
    for file in ["packed-refs.lock", "objects/pack/tmp_pack_x", "obuild-fetching", &recent] {
        fs::write(mirror.join(file), "x").unwrap();
    }
    let before = packs(&mirror);
    let (_, log) = get(&contexts, &repo.url(), &[&commit]);
    assert!(!log.contains("anew"), "{log}");
    assert!(before.iter().all(|pack| pack.exists()), "nothing was fetched twice");
    assert!(!mirror.join("objects/pack/tmp_pack_x").exists());
    // Without the mark of a fetch, as no one of ours leaves it: a lock makes the mirror new.
    let commit = repo.commit("file", "three\n");
    fs::write(mirror.join(format!("refs/recent/{}.lock", &commit[..3])), "").unwrap();
    fs::write(mirror.join("packed-refs.lock"), "").unwrap();
    let (_, log) = get(&contexts, &repo.url(), &[&commit]);
    assert!(log.contains(&format!("Made the mirror of `{}` anew\n", repo.url())), "{log}");
}

#[test]
fn many_small_packs_are_put_together() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let contexts = fixture.contexts();
    let commits: Vec<_> = (0..53).map(|n| repo.commit("file", &format!("{n}\n"))).collect();
    for commit in &commits {
        drop(get(&contexts, &repo.url(), &[commit]));
    }
    assert!(packs(&fixture.mirror()).len() < 20, "{}", packs(&fixture.mirror()).len());
    let (_, log) = get(&contexts, &repo.url(), &[&commits[0], &commits[52]]);
    assert!(log.starts_with("All commits already cached\n"), "{log}");
}
