//! Where a repository is: URLs, as strangers write them.

use std::fmt;

use base64::Engine as _;
use sha2::{Digest, Sha256};

use crate::commit::ObjectFormat;
use crate::error::{Error, Result};
use crate::shown::shown;

#[cfg(test)]
mod tests;

/// The longest URL that is read, in bytes.
const LONGEST: usize = 2000;

/// A repository's place: `http`, `https`, `git`, `ssh` (also written `USER@HOST:PATH`) or `file`.
///
/// Printing it never shows a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    scheme: Scheme,
    user: Option<String>,
    password: Option<String>,
    /// With the port; empty for a file.
    host: String,
    /// From the first slash on; for `HOST:PATH` with a slash before it.
    path: String,
    /// Whether it was written `HOST:PATH`, which starts at the home of the user there.
    at_home: bool,
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Without encryption.
    Http,
    /// With it.
    Https,
    /// Git's own protocol, without encryption.
    Git,
    /// Through ssh.
    Ssh,
    /// A directory of this machine.
    File,
}

impl Scheme {
    const ALL: [Self; 5] = [Self::Http, Self::Https, Self::Git, Self::Ssh, Self::File];

    /// As it stands in URLs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Git => "git",
            Self::Ssh => "ssh",
            Self::File => "file",
        }
    }
}

impl Repository {
    /// Reads a URL; [`Error::Refused`] says what is wrong with it.
    ///
    /// Only what all programs that will see the URL understand alike is taken.
    pub fn parse(text: &str) -> Result<Self> {
        parse(text).map_err(|Fault(why, hint)| Error::Refused {
            what: format!("the repository `{}`", shown(&without_password(text))),
            why,
            hint: hint.into(),
        })
    }

    /// Reads what a submodule says where it is: a URL, or a path relative to this repository, `./…` or `../…`.
    pub(crate) fn join(&self, text: &str) -> Result<Self> {
        if !(text.starts_with("./") || text.starts_with("../")) {
            return Self::parse(text);
        }
        self.climb(text).map_err(|Fault(why, hint)| Error::Refused {
            what: format!("the repository `{}`, relative to `{self}`,", shown(text)),
            why,
            hint: hint.into(),
        })
    }

    fn climb(&self, relative: &str) -> std::result::Result<Self, Fault> {
        let mut path: Vec<&str> = self.path.split('/').skip(1).collect();
        let mut rest = relative.trim_end_matches('/');
        loop {
            if let Some(after) = rest.strip_prefix("./") {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("../") {
                path.pop().ok_or(Fault("it climbs out of its host".into(), OUT_OF_HOST))?;
                rest = after;
            } else {
                break;
            }
        }
        path.push(rest);
        let path = path_of(self.scheme, &format!("/{}", path.join("/")))?;
        Ok(Self { path, ..self.clone() })
    }

    /// How it is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// From the first slash on.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// What Git is given: without a password, as other users see the arguments of every process.
    pub(crate) fn url(&self) -> String {
        self.to_string()
    }

    /// The header that says who asks, and the URL for which Git is to send it.
    pub(crate) fn authorization(&self) -> Option<(String, String)> {
        if !matches!(self.scheme, Scheme::Http | Scheme::Https) {
            return None;
        }
        let user = self.user.as_deref()?;
        let password = self.password.as_deref().unwrap_or_default();
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let at = format!("{}://{}/", self.scheme.name(), self.host);
        Some((at, format!("Authorization: Basic {encoded}")))
    }

    /// A directory's name for its mirror: readable, and another one for each URL, user, password and kind of objects, so that nobody
    /// meets what was fetched with another's password.
    pub(crate) fn key(&self, format: ObjectFormat) -> String {
        let base = self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let readable = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let base: String = base.chars().filter(readable).take(60).collect();
        let mut hash = Sha256::new();
        for part in [&self.to_string(), self.user.as_ref().unwrap_or(&String::new())] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(self.password.as_deref().unwrap_or_default().as_bytes());
        hash.update([0, u8::from(format == ObjectFormat::Sha256)]);
        format!("{}-{}", base.trim_start_matches(['.', '-']), hex::encode(&hash.finalize()[..20]))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at_home {
            write!(f, "{}://", self.scheme.name())?;
        }
        if let (Scheme::Ssh, Some(user)) = (self.scheme, &self.user) {
            write!(f, "{user}@")?;
        }
        let path = if self.at_home { self.path.replacen('/', ":", 1) } else { self.path.clone() };
        write!(f, "{}{path}", self.host)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({self})")
    }
}

/// Why, and what to do.
struct Fault(String, &'static str);

const PLAIN: &str = "write it as `https://HOST/PATH`";
const OUT_OF_HOST: &str = "write the submodule's URL in full in `.gitmodules`";

fn fault<T>(why: impl Into<String>, hint: &'static str) -> std::result::Result<T, Fault> {
    Err(Fault(why.into(), hint))
}

fn parse(text: &str) -> std::result::Result<Repository, Fault> {
    if text.is_empty() {
        return fault("it is empty", PLAIN);
    }
    if text.len() > LONGEST {
        return fault(format!("it is longer than {LONGEST} bytes"), PLAIN);
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        return fault(format!("it holds the character {bad:?}"), PLAIN);
    }
    if text.starts_with('-') {
        return fault("it begins with `-`, like an option", PLAIN);
    }
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains([':', '/']) => absolute(scheme, rest),
        _ => like_scp(text),
    }
}

fn absolute(scheme: &str, rest: &str) -> std::result::Result<Repository, Fault> {
    let lower = scheme.to_ascii_lowercase();
    let Some(scheme) = Scheme::ALL.into_iter().find(|known| known.name() == lower) else {
        let names = Scheme::ALL.map(Scheme::name).join(", ");
        return fault(format!("`{}` is none of {names}", shown(scheme)), PLAIN);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path_of(scheme, path)?;
    if scheme == Scheme::File {
        let host = String::new();
        let local = Repository { scheme, user: None, password: None, host, path, at_home: false };
        return if authority.is_empty() { Ok(local) } else { fault("a file has no host", PLAIN) };
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let (user, password) = user_of(scheme, user)?;
    Ok(Repository { scheme, user, password, host: host_of(host)?, path, at_home: false })
}

/// `USER@HOST:PATH`, as people copy it from web pages.
fn like_scp(text: &str) -> std::result::Result<Repository, Fault> {
    let Some((authority, path)) = text.split_once(':').filter(|(host, _)| !host.contains('/'))
    else {
        return fault("it names no protocol", PLAIN);
    };
    if path.starts_with(':') {
        let helper = shown(authority);
        return fault(
            format!("`{helper}::` asks Git to run the program `git-remote-{helper}`"),
            PLAIN,
        );
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let (user, password) = user_of(Scheme::Ssh, user)?;
    let at_home = !path.starts_with('/');
    let path = path_of(Scheme::Ssh, &format!("{}{path}", if at_home { "/" } else { "" }))?;
    if host.contains(':') {
        return fault("a port can stand only after `ssh://HOST`", PLAIN);
    }
    Ok(Repository { scheme: Scheme::Ssh, user, password, host: host_of(host)?, path, at_home })
}

/// `HOST` or `HOST:PORT`.
fn host_of(text: &str) -> std::result::Result<String, Fault> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let numbered = |inner: &str| {
        inner.contains(':')
            && inner.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'))
    };
    let valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => numbered(inner),
        None => !host.is_empty() && !host.starts_with(['-', '.']) && host.chars().all(named),
    };
    if !valid {
        return fault(format!("`{}` is no name of a host", shown(host)), PLAIN);
    }
    if port.is_some_and(|port| port.len() > 5 || port.parse::<u16>().map_or(true, |port| port == 0))
    {
        return fault("its port is no number from 1 to 65535", PLAIN);
    }
    Ok(text.to_ascii_lowercase())
}

type User = (Option<String>, Option<String>);

fn user_of(scheme: Scheme, text: Option<&str>) -> std::result::Result<User, Fault> {
    let Some(text) = text else { return Ok((None, None)) };
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    match scheme {
        Scheme::Http | Scheme::Https => {
            let decoded =
                |text| decoded(text).ok_or(Fault("its user is not well written".into(), PLAIN));
            let password = password.map(decoded).transpose()?;
            Ok((Some(decoded(user)?), password))
        }
        Scheme::Ssh if password.is_some() => fault("ssh takes no password in a URL", PLAIN),
        Scheme::Ssh => {
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if user.is_empty() || user.starts_with('-') || !user.chars().all(valid) {
                return fault(format!("`{}` is no name of a user", shown(user)), PLAIN);
            }
            Ok((Some(user.into()), None))
        }
        Scheme::Git | Scheme::File => fault("its protocol knows no users", PLAIN),
    }
}

/// Undoes `%xx`; control characters could end the header or the line that it goes into.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let mut byte = first;
        if first == b'%' {
            hex::decode_to_slice(rest.get(..2)?, std::slice::from_mut(&mut byte)).ok()?;
            rest = &rest[2..];
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn path_of(scheme: Scheme, path: &str) -> std::result::Result<String, Fault> {
    let path = path.trim_end_matches('/');
    if path.trim_matches('/').is_empty() {
        return fault("it names a host and no repository", PLAIN);
    }
    if let Some(bad) = path.chars().find(|c| matches!(c, '?' | '#' | '\\' | '"' | '<' | '>' | '`'))
    {
        return fault(format!("its path holds `{bad}`"), PLAIN);
    }
    if scheme != Scheme::File && !path.is_ascii() {
        return fault(
            "its path holds a character that is not ASCII",
            "write it as `%` and two digits",
        );
    }
    if scheme == Scheme::File && path.contains('%') {
        return fault("the path of a file holds `%`", "rename the directory");
    }
    check_parts(path)?;
    Ok(path.into())
}

/// Git undoes `%xx` for some protocols and not for others.
fn check_parts(path: &str) -> std::result::Result<(), Fault> {
    let Some(plain) = decoded(path) else {
        let hint = "write `%` and two digits of a printable character";
        return fault("its path is not well written", hint);
    };
    let parts = || path.split('/').chain(plain.split('/'));
    if parts().any(|part| matches!(part, "." | "..")) {
        return fault("its path holds `.` or `..`", "write the path without them");
    }
    if parts().any(|part| part.starts_with('-')) {
        return fault(
            "a part of its path begins with `-`, like an option",
            "rename the repository",
        );
    }
    Ok(())
}

/// For messages about URLs that cannot be read.
fn without_password(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            let separator = if scheme.is_empty() { "" } else { "://" };
            format!("{scheme}{separator}…@{host}")
        }
        None => text.into(),
    }
}
