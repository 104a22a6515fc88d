//! All that Git knows of this machine: a configuration file and an environment of our own making.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::config::{Config, PATH, Ssh};

/// The configuration that stands in for the user's and the system's.
///
/// It is a file and not arguments so that the helper programs, which Git gives a clean environment, read it too.
pub(crate) const CONFIGURATION: &str = r#"# Written at every start; what is changed here is lost.
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	untrackedCache = false
	askPass =
	pager = cat
	editor = :
	symlinks = true
	protectHFS = true
	protectNTFS = true
	logAllRefUpdates = false
	packedGitWindowSize = 32m
	packedGitLimit = 512m
[credential]
	helper =
	interactive = false
[http]
	followRedirects = initial
	lowSpeedLimit = 1
	lowSpeedTime = 300
[fetch]
	recurseSubmodules = false
	unpackLimit = 1
	writeCommitGraph = false
[transfer]
	unpackLimit = 1
	bundleURI = false
[gc]
	auto = 0
[maintenance]
	auto = false
[pack]
	threads = 2
[submodule]
	recurse = false
[commit]
	gpgSign = false
[merge]
	verifySignatures = false
	autoStash = false
[safe]
	directory = *
"#;

/// The environment of every command of Git.
pub(crate) fn environment(config: &Config, layout: &Layout) -> Vec<(OsString, OsString)> {
    let ssh = config.ssh.as_ref().map_or_else(|| "false".into(), ssh_command);
    let fixed: [(&str, OsString); 20] = [
        ("PATH", PATH.into()),
        ("HOME", layout.home().into()),
        ("TMPDIR", layout.home().into()),
        ("LC_ALL", "C".into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_CONFIG_GLOBAL", layout.configuration().into()),
        ("GIT_ATTR_NOSYSTEM", "1".into()),
        ("GIT_TERMINAL_PROMPT", "0".into()),
        ("GIT_ASKPASS", "".into()),
        ("GIT_PROTOCOL_FROM_USER", "0".into()),
        ("GIT_ALLOW_PROTOCOL", config.protocols().into()),
        ("GIT_NO_REPLACE_OBJECTS", "1".into()),
        ("GIT_NO_LAZY_FETCH", "1".into()),
        ("GIT_MERGE_AUTOEDIT", "no".into()),
        ("GIT_LFS_SKIP_SMUDGE", "1".into()),
        ("GIT_SSH_VARIANT", "ssh".into()),
        ("GIT_SSH_COMMAND", ssh),
        // As the original does it: a merge made here looks like one made there.
        ("GIT_AUTHOR_NAME", "ocluster".into()),
        ("GIT_COMMITTER_NAME", "ocluster".into()),
        ("EMAIL", "ocluster@ocurrent.org".into()),
    ];
    let fixed = fixed.map(|(name, value)| (name.into(), value));
    fixed.into_iter().chain(config.environment.iter().cloned()).collect()
}

/// Git gives this to a shell.
fn ssh_command(ssh: &Ssh) -> OsString {
    let mut command = OsString::from("ssh -F none -o IdentityAgent=none -o IdentitiesOnly=yes");
    command.push(" -o BatchMode=yes -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=none");
    command.push(" -o ConnectTimeout=60 -o ServerAliveInterval=30 -o ServerAliveCountMax=3");
    command.push(" -o ControlPath=none -o ForwardAgent=no -o ClearAllForwardings=yes");
    for (option, path) in [(" -o UserKnownHostsFile=", &ssh.known_hosts), (" -i ", &ssh.key)] {
        command.push(option);
        command.push(quoted(path));
    }
    command
}

/// `path` as one word of a shell.
fn quoted(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    let mut word = b"'".to_vec();
    for &byte in bytes {
        match byte {
            b'\'' => word.extend_from_slice(b"'\\''"),
            _ => word.push(byte),
        }
    }
    word.push(b'\'');
    OsString::from_vec(word)
}

/// A value of a configuration file.
pub(crate) fn quoted_value(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Where things lie in the state directory.
///
/// ```text
/// STATE/git/config               what Git is configured with
///           home/                the empty directory that Git takes for the user's
///           mirrors/NAME-KEY/    a repository's mirror, see `mirror`
///           contexts/RANDOM/     a job's sources, see `context`
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("git"))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.0.join("config")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    pub(crate) fn mirrors(&self) -> PathBuf {
        self.0.join("mirrors")
    }

    pub(crate) fn contexts(&self) -> PathBuf {
        self.0.join("contexts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_callers_environment_and_a_key_in_quotes() {
        let mut config = Config::new("/state");
        config.ssh = Some(Ssh { key: "/it's/key".into(), known_hosts: "/a b".into() });
        config.environment = vec![("https_proxy".into(), "http://proxy:1/".into())];
        let environment = environment(&config, &Layout::new(&config.state_dir));
        let value = |wanted: &str| {
            let found = environment.iter().rfind(|(name, _)| name == wanted);
            found.map(|(_, value)| value.to_str().unwrap())
        };
        let ssh = value("GIT_SSH_COMMAND").unwrap();
        assert!(ssh.ends_with(r"-o UserKnownHostsFile='/a b' -i '/it'\''s/key'"), "{ssh}");
        assert_eq!(value("HOME"), Some("/state/git/home"));
        assert_eq!(value("GIT_ALLOW_PROTOCOL"), Some("http:https:git:ssh"));
        assert_eq!(value("https_proxy"), Some("http://proxy:1/"));
        assert_eq!(value("USER"), None);
    }

    #[test]
    fn values_stay_values() {
        assert_eq!(quoted_value(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
