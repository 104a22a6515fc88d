use proptest::prelude::*;

use super::*;

fn printed(text: &str) -> String {
    Repository::parse(text).unwrap().to_string()
}

fn why(text: &str) -> String {
    let error = Repository::parse(text).expect_err(text);
    assert!(error.hint().is_some());
    error.to_string()
}

#[test]
fn the_ways_to_name_a_repository() {
    for text in [
        "https://github.com/ocaml/opam-repository.git",
        "http://localhost:8080/x%20y",
        "git://[::1]:9418/a/b.git",
        "ssh://git@example.org:2222/a.git",
        "file:///srv/git/ä b".replace(' ', "_").as_str(),
    ] {
        assert_eq!(printed(text), text);
    }
    assert_eq!(printed("HTTPS://GitHub.com/Owner/Repo/"), "https://github.com/Owner/Repo");
    assert_eq!(printed("git@github.com:owner/repo.git"), "git@github.com:owner/repo.git");
    assert_eq!(printed("host:/srv/repo.git"), "ssh://host/srv/repo.git");
}

#[test]
fn what_git_or_a_shell_would_take_for_more_than_a_place() {
    let cases = [
        ("ext::sh -c touch% /tmp/x", "' '"),
        ("ext::/bin/true", "git-remote-ext"),
        ("fd::17/foo", "git-remote-fd"),
        ("ext::ssh://host/x", "git-remote-ext"),
        ("EXT://host/x", "`EXT` is none of"),
        ("ftp://host/x", "`ftp` is none of"),
        ("persistent-https://host/x", "is none of"),
        ("--upload-pack=touch", "like an option"),
        ("-oProxyCommand=id:x", "like an option"),
        ("ssh://-oProxyCommand=id/x", "no name of a host"),
        ("ssh://-l@host/x", "no name of a user"),
        ("git@-oProxyCommand=id:x", "no name of a host"),
        ("ssh://host/-x", "like an option"),
        ("git://host:99999/x", "port"),
        ("git://host:/x", "port"),
        ("git://a@host/x", "knows no users"),
        ("https://host/x\nJob succeeded", "'\\n'"),
        ("https://host/x\0", "'\\0'"),
        ("https://host/../../etc", "`..`"),
        ("https://host/a?b", "`?`"),
        ("git://host/a%0ab", "not well written"),
        ("git://host/a%2", "not well written"),
        ("git://host/%2e%2E/x", "`..`"),
        ("ssh://host/%2dx", "like an option"),
        ("https://host", "no repository"),
        ("https:///x", "no name of a host"),
        ("https://ho%73t/x", "no name of a host"),
        ("https://a%0ab@host/x", "not well written"),
        ("https://user:pa%0dss@host/x", "not well written"),
        ("file://host/x", "no host"),
        ("file:///a%2e%2e/x", "`%`"),
        ("/etc/x", "no protocol"),
        ("../x", "no protocol"),
        ("", "empty"),
        ("ssh://u:p@host/x", "no password"),
    ];
    for (text, expected) in cases {
        let why = why(text);
        assert!(why.contains(expected) && !why.contains('\n'), "{text:?}: {why}");
    }
    assert!(why(&format!("https://host/{}", "x".repeat(3000))).contains("longer"));
}

#[test]
fn passwords_are_never_shown() {
    let repository = Repository::parse("https://me:s%40cret@example.org:8443/a.git").unwrap();
    assert_eq!(repository.to_string(), "https://example.org:8443/a.git");
    assert!(!format!("{repository:?}").contains("cret"));
    let (at, header) = repository.authorization().unwrap();
    assert_eq!(at, "https://example.org:8443/");
    assert_eq!(header, "Authorization: Basic bWU6c0BjcmV0");
    assert!(!why("https://me:secret@host/x#y").contains("secret"));
    assert!(!why("https://me:secret@ho st/x").contains("secret"));
}

#[test]
fn who_does_not_know_the_password_gets_another_mirror() {
    let key = |text: &str| Repository::parse(text).unwrap().key(ObjectFormat::Sha1);
    let keys = [
        key("https://h/a.git"),
        key("https://u@h/a.git"),
        key("https://u:p@h/a.git"),
        key("https://u:q@h/a.git"),
        key("http://h/a.git"),
        Repository::parse("https://h/a.git").unwrap().key(ObjectFormat::Sha256),
    ];
    let different: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    assert!(keys[0].starts_with("a.git-"));
    assert_eq!(key("https://H/a.git/"), keys[0]);
    assert!(key("https://h/...").starts_with('-'), "no hidden names");
}

#[test]
fn submodules_climb_no_further_than_their_host() {
    let base = Repository::parse("https://u:p@h/a/b.git").unwrap();
    let joined = |text: &str| base.join(text).map(|found| found.to_string());
    assert_eq!(joined("../c.git").unwrap(), "https://h/a/c.git");
    assert_eq!(joined("./c").unwrap(), "https://h/a/b.git/c");
    assert_eq!(joined("../../x/y/").unwrap(), "https://h/x/y");
    assert_eq!(joined("git://other/x").unwrap(), "git://other/x");
    assert!(base.join("../c.git").unwrap().authorization().is_some(), "the host is the same");
    assert!(base.join("https://h/c.git").unwrap().authorization().is_none());
    for text in ["../../../x", "../../../../evil.org/x", "../a/../../x", "../", "../.."] {
        assert!(joined(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_read_is_read_again_alike(text in ".{0,60}|[a-z]{0,5}:{0,2}/{0,3}[a-z@:.-]{0,12}/[a-z./-]{0,12}") {
        if let Ok(repository) = Repository::parse(&text) {
            let printed = repository.to_string();
            prop_assert!(!printed.starts_with('-'));
            if repository.password.is_none() && (repository.scheme == Scheme::Ssh || repository.user.is_none()) {
                prop_assert_eq!(Repository::parse(&printed).unwrap(), repository);
            }
        }
    }
}
