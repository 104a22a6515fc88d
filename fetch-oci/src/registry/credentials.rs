//! Credentials from Docker's configuration file and from the helpers it names.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// How Docker calls its own registry.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// No helper takes longer.
const HELPER_BOUND: Duration = Duration::from_secs(60);

/// Who to be.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A name and a password.
    Password(String, String),
    /// A token with which others are got.
    Identity(String),
}

/// The file, as far as it matters here.
#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: HashMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper answers.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What `config` has for the registry `host`.
pub(super) fn find(config: &Path, host: &str) -> Result<Option<Credentials>> {
    let bytes = match fs::read(config) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::path("read", config, error)),
    };
    let bad = |e: serde_json::Error| Error::path("read", config, e.into());
    let parsed: DockerConfig = serde_json::from_slice(&bytes).map_err(bad)?;
    let keyed =
        |key: &str| bare(key) == host || host == "docker.io" && bare(key) == "index.docker.io";
    let helper = parsed.cred_helpers.iter().find(|(key, _)| keyed(key)).map(|(_, name)| name);
    if let Some(helper) = helper.or(parsed.creds_store.as_ref()) {
        let server = if host == "docker.io" { DOCKER_HUB_KEY } else { host };
        if let Some(found) = ask(helper, server)? {
            return Ok(Some(found));
        }
    }
    Ok(parsed.auths.iter().find(|(key, _)| keyed(key)).and_then(|(_, auth)| stored(auth)))
}

/// A key without scheme and path.
fn bare(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn stored(auth: &Auth) -> Option<Credentials> {
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Some(Credentials::Identity(token.clone()));
    }
    if let (Some(user), Some(password)) = (&auth.username, &auth.password) {
        return Some(Credentials::Password(user.clone(), password.clone()));
    }
    let bytes = STANDARD.decode(auth.auth.as_ref()?.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Password(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Asks `docker-credential-NAME` for the credentials of `server`; `None` if it has none.
fn ask(name: &str, server: &str) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{name}");
    let failed = |source: io::Error| Error::Io { action: format!("run `{program} get`"), source };
    if name.contains('/') {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "its name has a slash")));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read what it is asked may still answer.
        let _ = input.write_all(server.as_bytes());
    }
    let output = thread::spawn({
        let (out, err) = (child.stdout.take(), child.stderr.take());
        move || (all(out), all(err))
    });
    let success = wait(&mut child).map_err(failed)?;
    let (out, err) = output.join().unwrap_or_default();
    if !success {
        let said = format!("{out}{err}");
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(io::Error::other(said.trim().to_owned())));
    }
    let answer: Answer = serde_json::from_str(&out).map_err(|e| failed(e.into()))?;
    Ok(match answer.username.as_str() {
        "" => None,
        "<token>" => Some(Credentials::Identity(answer.secret)),
        _ => Some(Credentials::Password(answer.username, answer.secret)),
    })
}

fn all(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let _ = from.take(1 << 20).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child) -> io::Result<bool> {
    let until = Instant::now() + HELPER_BOUND;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, host: &str) -> Option<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, config).unwrap();
        find(&path, host).unwrap().map(|found| match found {
            Credentials::Password(user, password) => (user, password),
            Credentials::Identity(token) => ("<token>".to_owned(), token),
        })
    }

    #[test]
    fn stored_credentials_are_found_by_host() {
        let auth = STANDARD.encode("ann:se:cret");
        let config = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}}, "reg:5000": {{"auth": "{auth}"}},
                "https://quay.io/v2/": {{"identitytoken": "t", "auth": "{auth}"}}, "empty": {{}}}}}}"#
        );
        let ann = Some(("ann".to_owned(), "se:cret".to_owned()));
        assert_eq!(check(&config, "docker.io"), ann);
        assert_eq!(check(&config, "reg:5000"), ann);
        assert_eq!(check(&config, "reg"), None);
        assert_eq!(check(&config, "quay.io"), Some(("<token>".to_owned(), "t".to_owned())));
        assert_eq!(check(&config, "empty"), None);
        assert_eq!(check("{}", "docker.io"), None);
    }
}
