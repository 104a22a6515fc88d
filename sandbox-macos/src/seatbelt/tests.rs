use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;

fn paths(all: &[&str]) -> Vec<PathBuf> {
    all.iter().map(PathBuf::from).collect()
}

/// What a step may usually do.
fn usual() -> Policy {
    Policy {
        readable: paths(&["/"]),
        writable: paths(&["/Volumes/builds/store/home", "/Volumes/builds/store/home.tmp"]),
        executable: Vec::new(),
        hidden: Vec::new(),
        network: Network::Loopback,
    }
}

/// Compares the profile of `policy`, and what its parameters stand for, with a file.
fn check(policy: &Policy, golden: &str) {
    let profile = Profile::new(policy);
    well_formed(&profile);
    let parameters = profile.parameters.iter();
    let lines = parameters.map(|(name, path)| format!("; {name} = {}\n", path.display()));
    let found = profile.text.clone() + &lines.collect::<String>();
    assert_eq!(found, golden, "found:\n{found}");
}

/// Whether parentheses and quotes balance, each rule begins a line, no rule that needs a filter lacks one, and parameters
/// and their uses are the same.
fn well_formed(profile: &Profile) {
    let (mut depth, mut quoted) = (0, false);
    let mut expression = 0;
    for c in profile.text.chars() {
        expression += 1;
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            '\n' if depth == 0 => {
                assert!(expression <= LONGEST + 100, "an expression of {expression} characters");
                expression = 0;
            }
            _ => {}
        }
        assert!(depth >= 0);
    }
    assert!(depth == 0 && !quoted, "{}", profile.text);
    let used = profile.text.split("(param \"").skip(1);
    let used: BTreeSet<_> = used.filter_map(|rest| rest.split('"').next()).collect();
    let known: BTreeSet<_> = profile.parameters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(used, known);
    assert_eq!(known.len(), profile.parameters.len(), "a name stands for one path");
    assert!(!profile.text.contains("(allow file-write*)"), "everything may be written");
    assert!(profile.text.starts_with("(version 1)\n(allow default)\n"));
    assert!(profile.text.ends_with(TAIL), "nothing comes after the last denial");
}

#[test]
fn a_step_may_read_the_system_and_write_its_home() {
    check(&usual(), include_str!("../../tests/golden/usual.sb"));
}

#[test]
fn the_hosts_network_is_all_of_it() {
    let policy = Policy { network: Network::Host, ..usual() };
    check(&policy, include_str!("../../tests/golden/network.sb"));
}

#[test]
fn prefixes_and_caches_can_be_written() {
    let mut policy = usual();
    policy.writable.extend(paths(&[
        "/opt/homebrew/",
        "/tmp/obuild",
        "/var/cache/c",
        "/opt/homebrew",
    ]));
    check(&policy, include_str!("../../tests/golden/prefixes.sb"));
}

#[test]
fn a_home_inside_of_what_is_hidden_can_be_reached() {
    let mut policy = usual();
    policy.hidden = paths(&[
        "/Volumes/builds/store",
        "/Users/ann/.ssh",
        "/etc/obuild",
        "/Volumes/builds/store/home/mnt/secret",
    ]);
    check(&policy, include_str!("../../tests/golden/hidden.sb"));
}

/// Whether the last rule on `operation` and `path` allows it.
fn allows(profile: &Profile, operation: &str, path: &str) -> bool {
    let mut allowed = true;
    for expression in profile.text.split("\n(").skip(1) {
        let (head, filters) = expression.split_once("\n  ").unwrap_or((expression, ""));
        let mut words = head.split([' ', ')']);
        let allow = words.next() == Some("allow");
        let concerns = words.any(|word| {
            word == operation
                || word.strip_suffix('*').is_some_and(|one| operation.starts_with(one))
        });
        let matches = |filter: &str| {
            let (kind, name) = filter.trim_start_matches('(').split_once(" (param \"").unwrap();
            let name = name.split('"').next().unwrap();
            let (_, of_rule) = profile.parameters.iter().find(|(other, _)| other == name).unwrap();
            let path = Path::new(path);
            if kind == "literal" { path == of_rule } else { path.starts_with(of_rule) }
        };
        let filters: Vec<_> = filters.lines().filter(|line| line.contains("(param")).collect();
        let everywhere = !expression.contains("literal") && !expression.contains("subpath");
        if concerns && (everywhere || filters.into_iter().map(str::trim).any(matches)) {
            allowed = allow;
        }
    }
    allowed
}

#[test]
fn the_nearest_rule_counts() {
    let store = "/Volumes/builds/store";
    let mut policy = usual();
    policy.hidden = vec![store.into(), format!("{store}/home/mnt/secret").into()];
    policy.writable.push(format!("{store}/home/mnt/secret/cache").into());
    policy.readable.push(format!("{store}/home.secrets").into());
    let profile = Profile::new(&policy);
    for (read, write, path) in [
        (true, false, "/usr/bin/cc"),
        (true, false, "/Volumes/builds"),
        (false, false, store),
        (false, false, &format!("{store}/result/x")),
        (true, true, &format!("{store}/home")),
        (true, true, &format!("{store}/home/mnt/x")),
        (false, false, &format!("{store}/home/mnt/secret/x")),
        (true, true, &format!("{store}/home/mnt/secret/cache/x")),
        (false, false, &format!("{store}/home2")),
        (true, false, &format!("{store}/home.secrets/key")),
    ] {
        assert_eq!(allows(&profile, "file-read-data", path), read, "read {path}");
        assert_eq!(allows(&profile, "file-write-data", path), write, "write {path}");
        assert!(!allows(&profile, "file-write-setugid", path), "setuid {path}");
    }
    assert!(allows(&profile, "file-read-metadata", store), "it has to be passed");
    assert!(allows(&profile, "file-read-metadata", &format!("{store}/home/mnt/secret")));
    policy.readable = paths(&["/usr"]);
    let narrow = Profile::new(&policy);
    assert!(allows(&narrow, "file-read-data", "/usr/bin/cc"));
    assert!(!allows(&narrow, "file-read-data", "/Users/ann/.ssh"));
    assert!(allows(&narrow, "file-read-data", &format!("{store}/home/x")));
    assert!(allows(&narrow, "file-read-metadata", "/Volumes"));
}

#[test]
fn what_may_be_read_and_executed_can_be_few_places() {
    let mut policy = usual();
    policy.readable = paths(&["/usr", "/bin", "/System", "/Library/Developer"]);
    policy.executable = paths(&["/usr/bin", "/bin", "/Volumes/builds/store/home"]);
    check(&policy, include_str!("../../tests/golden/narrow.sb"));
}

#[test]
fn long_lists_are_split() {
    let mut policy = usual();
    policy.hidden = (0..2000).map(|n| format!("/Volumes/builds/others/{n}").into()).collect();
    let profile = Profile::new(&policy);
    well_formed(&profile);
    assert_eq!(profile.parameters.len(), 2002);
    let denials = profile.text.matches("(deny file-read* file-write* ").count();
    assert!(denials > 2000 * 50 / LONGEST && denials < 20, "{denials} expressions");
    assert_eq!(profile.arguments().len(), 3 + 2 * 2002);
}

#[test]
fn paths_need_no_quoting() {
    let mut policy = usual();
    policy.writable = vec![OsString::from_vec(b"/a \"b\") (allow default)\n\xff".to_vec()).into()];
    let profile = Profile::new(&policy);
    well_formed(&profile);
    let arguments = profile.arguments();
    assert_eq!(arguments.first().unwrap(), "-p");
    assert_eq!(arguments.last().unwrap(), "--");
    let value = arguments.iter().find(|one| one.starts_with(b"PATH_0=")).unwrap();
    assert_eq!(*value, b"PATH_0=/a \"b\") (allow default)\n\xff");
}

#[test]
fn paths_are_those_of_the_kernel() {
    for (path, expected) in [
        ("/tmp", "/private/tmp"),
        ("/var/db/obuild/", "/private/var/db/obuild"),
        ("/etc", "/private/etc"),
        ("/private/var/x", "/private/var/x"),
        ("/variable", "/variable"),
        ("/System/Volumes/Data/Users/ann", "/Users/ann"),
        ("/System/Volumes/Data/private/var/x", "/private/var/x"),
        ("/System/Volumes/Data/usr/local/bin", "/usr/local/bin"),
        ("/System/Volumes/Data/builds", "/System/Volumes/Data/builds"),
        ("/", "/"),
    ] {
        assert_eq!(canonical(Path::new(path)), Path::new(expected), "{path}");
    }
}

#[test]
fn links_are_followed_as_far_as_they_lead() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    std::fs::create_dir(dir.join("there")).unwrap();
    std::os::unix::fs::symlink("there", dir.join("link")).unwrap();
    assert_eq!(real(&dir.join("link/not/yet")), canonical(&dir.join("there/not/yet")));
    assert_eq!(real(&dir.join("link")), canonical(&dir.join("there")));
    assert_eq!(real(Path::new("/nowhere/at/all")), Path::new("/nowhere/at/all"));
}
