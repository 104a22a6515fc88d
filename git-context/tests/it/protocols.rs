//! Every protocol, against real servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use git_context::{Request, Ssh};
use obuilder_core::Cancel;

use crate::fixture::*;
use crate::server::{Kind, Server};

/// Two commits from `url`, the second one after it was made, and no bytes twice.
fn two_jobs(fixture: &Fixture, repo: &Repo, url: &str, published: impl Fn()) {
    let contexts = fixture.contexts();
    let first = repo.head();
    published();
    let (context, log) = get(&contexts, url, &[&first]);
    assert_eq!(read(&context, "file"), "one\n");
    assert!(log.starts_with("HEAD is now at "), "{log}");
    let second = repo.commit("file", "two\n");
    published();
    let (context, _) = get(&contexts, url, &[&second]);
    assert_eq!(read(&context, "file"), "two\n");
    let (_, log) = get(&contexts, url, &[&first, &second]);
    assert!(log.starts_with("All commits already cached\n"), "{log}");
}

#[test]
fn gits_daemon() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let server = Server::start(&fixture.repos(), Kind::Daemon(vec![]));
    two_jobs(&fixture, &repo, &server.url("git", "repo/.git"), || {});
    assert_eq!(server.connections(), 2, "one for each new commit, and no other");
}

#[test]
fn a_server_that_grants_branches_alone() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let old = repo.head();
    repo.commit("file", "two\n");
    // The old protocol grants what it has advertised, and no commit below it.
    let settings = vec!["protocol.version=0".into(), "uploadpack.allowAnySHA1InWant=false".into()];
    let server = Server::start(&fixture.repos(), Kind::Daemon(settings));
    let mut fixture = fixture;
    fixture.config.environment.push(("GIT_CONFIG_COUNT".into(), "1".into()));
    fixture.config.environment.push(("GIT_CONFIG_KEY_0".into(), "protocol.version".into()));
    fixture.config.environment.push(("GIT_CONFIG_VALUE_0".into(), "0".into()));
    let url = server.url("git", "repo/.git");
    let (context, log) = get(&fixture.contexts(), &url, &[&old]);
    assert_eq!(read(&context, "file"), "one\n");
    assert!(!log.contains("unadvertised"), "the first try is nobody's business: {log}");
    assert_eq!(server.connections(), 2);
    let (error, _) = fail(&fixture.contexts(), &url, &[&"1".repeat(40)]);
    assert!(error.contains("is not in `git://"), "{error}");
}

#[test]
fn a_web_server() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let server = Server::start(&fixture.repos(), Kind::Smart);
    two_jobs(&fixture, &repo, &server.url("http", "repo/.git"), || {});
}

#[test]
fn a_web_server_of_plain_files() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let server = Server::start(&fixture.repos(), Kind::Dumb);
    let publish = || drop(repo.git(&["update-server-info"]));
    two_jobs(&fixture, &repo, &server.url("http", "repo/.git"), publish);
}

#[test]
fn passwords_reach_the_server_and_nobody_else() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let server =
        Server::start(&fixture.repos(), Kind::Guarded("Authorization: Basic bWU6czNjcmV0".into()));
    let contexts = fixture.contexts();
    let url = server.url("http", "repo/.git");
    let with = |user: &str| url.replace("http://", &format!("http://{user}@"));
    let (context, log) = get(&contexts, &with("me:s3cret"), &[&repo.head()]);
    assert_eq!(read(&context, "file"), "one\n");
    assert!(!log.contains("s3cret"));
    let mut grep = Command::new("grep");
    let grep = grep.arg("-rE").arg("s3cret|bWU6").arg(&fixture.config.state_dir);
    let found = grep.output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&found), "", "in the state directory");
    for user in ["", "me:wr0ng@", "me@"] {
        let url = url.replace("http://", &format!("http://{user}"));
        let (error, log) = fail(&contexts, &url, &[&repo.head()]);
        assert_eq!(error, "git-fetch failed with exit-code 128");
        let asked = ["terminal prompts disabled", "unable to get password"];
        assert!(asked.iter().any(|text| log.contains(text)), "no mirror of another's: {log}");
        assert!(!log.contains("wr0ng"), "{log}");
    }
}

#[test]
fn a_redirection_leads_to_no_other_protocol() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let real = Server::start(&fixture.repos(), Kind::Smart);
    let kind = Kind::Elsewhere(format!("http://127.0.0.1:{}", real.port));
    let server = Server::start(&fixture.repos(), kind);
    let (context, _) = get(&fixture.contexts(), &server.url("http", "repo/.git"), &[&repo.head()]);
    assert_eq!(read(&context, "file"), "one\n");
    let kind = Kind::Elsewhere(format!("file://{}", fixture.repos().display()));
    let server = Server::start(&fixture.repos(), kind);
    let (error, log) = fail(&fixture.contexts(), &server.url("http", "repo/.git"), &[&repo.head()]);
    assert_eq!(error, "git-fetch failed with exit-code 128", "{log}");
}

#[test]
fn ssh_with_the_workers_key() {
    let fixture = Fixture::new();
    let repo = fixture.repo("repo");
    let Some((fixture, url)) = with_ssh(fixture, &repo.path) else { return };
    two_jobs(&fixture, &repo, &url, || {});
    let known_hosts = &fixture.config.ssh.as_ref().unwrap().known_hosts;
    fs::write(known_hosts, "").unwrap();
    let newer = repo.commit("file", "three\n");
    let (error, log) = fail(&fixture.contexts(), &url, &[&newer]);
    assert_eq!(error, "git-fetch failed with exit-code 128");
    assert!(log.contains("Host key verification failed"), "{log}");
}

/// An ssh server that answers on its standard streams, which `ProxyCommand` starts: Git and ssh are real, and no port is taken.
fn with_ssh(mut fixture: Fixture, repo: &Path) -> Option<(Fixture, String)> {
    let Some(sshd) = ["/usr/sbin/sshd"].into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("SKIP: sshd is not installed");
        return None;
    };
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap()?;
    if user.shell.ends_with("nologin") || user.shell.ends_with("false") {
        eprintln!("SKIP: {} may not log in", user.name);
        return None;
    }
    let user = user.name;
    // A service manager makes it before it starts the server; only root's server wants it.
    let _ = fs::create_dir("/run/sshd");
    let dir = fixture.dir.path().join("ssh");
    fs::create_dir(&dir).unwrap();
    let path = |name: &str| dir.join(name);
    for key in ["host", "key"] {
        let mut keygen = Command::new("ssh-keygen");
        let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key)).status();
        assert!(made.unwrap().success());
    }
    fs::copy(path("key.pub"), path("authorized")).unwrap();
    fs::write(
        path("sshd_config"),
        format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n",
            dir.display()
        ),
    )
    .unwrap();
    let server = Server::start_program(vec![
        sshd.into(),
        "-i".into(),
        "-e".into(),
        "-f".into(),
        path("sshd_config").into(),
    ]);
    let host_key = fs::read_to_string(path("host.pub")).unwrap();
    let known = format!("[127.0.0.1]:{} {host_key}", server.port);
    fs::write(path("known_hosts"), known).unwrap();
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    fixture.config.ssh = Some(Ssh { key: path("key"), known_hosts: path("known_hosts") });
    Some((fixture, format!("ssh://{user}@127.0.0.1:{}{}", server.port, repo.display())))
}

#[test]
fn ssh_without_a_key_is_refused() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture.repos(), Kind::Silent);
    let url = server.url("ssh", "repo");
    let request = Request::new(&url, ["1234567890123456789012345678901234567890"], false).unwrap();
    let (prepared, _) = prepare_with(&fixture.contexts(), &request, &Cancel::new());
    let error = prepared.unwrap_err();
    assert!(error.to_string().contains("has no key for ssh"), "{error}");
    assert!(error.hint().unwrap().contains("https"));
    assert_eq!(server.connections(), 0);
}
