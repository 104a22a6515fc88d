//! Names of images: archives, layouts and references to registries.

use std::fmt;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The registry of names that have none.
const DOCKER_HUB: &str = "docker.io";

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    /// `oci:PATH` or `oci:PATH:TAG`: an OCI layout, a directory or a tar archive of one.
    Layout {
        /// The directory or archive.
        path: PathBuf,
        /// Which of its images, when it has several.
        tag: Option<String>,
    },
    /// `docker-archive:PATH` or `docker-archive:PATH:NAME:TAG`: what `docker save` makes.
    DockerArchive {
        /// The archive.
        path: PathBuf,
        /// Which of its images, when it has several.
        tag: Option<String>,
    },
    /// `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`: an image in a registry.
    Registry(Reference),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host, and port if it has one.
    pub host: String,
    /// The repository's name on that host.
    pub repository: String,
    /// What is named in it.
    pub target: Target,
}

/// An image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// What this tag points to at the moment.
    Tag(String),
    /// The very image with this digest; the tag beside it, if there was one, says nothing more.
    Digest(Digest),
}

impl ImageName {
    /// Reads any of them.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = path_and_tag(text, rest, 1)?;
            return Ok(Self::Layout { path, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, tag) = path_and_tag(text, rest, 2)?;
            return Ok(Self::DockerArchive { path, tag });
        }
        Reference::parse(text).map(Self::Registry)
    }

    /// Whether `text` names an archive or a layout, right or wrong.
    pub fn is_file(text: &[u8]) -> bool {
        text.starts_with(b"oci:") || text.starts_with(b"docker-archive:")
    }
}

/// Parts `PATH[:TAG]`, TAG having `parts` parts; a path that exists as it stands is a path.
fn path_and_tag(text: &str, rest: &str, parts: usize) -> Result<(PathBuf, Option<String>)> {
    if rest.is_empty() {
        let why = "the path is missing".to_owned();
        return Err(Error::BadName { text: text.to_owned(), why });
    }
    let whole = PathBuf::from(rest);
    if whole.exists() {
        return Ok((whole, None));
    }
    for parts in (1..=parts).rev() {
        let colon = rest.rmatch_indices(':').nth(parts - 1);
        let Some((path, tag)) = colon.map(|(at, _)| (&rest[..at], &rest[at + 1..])) else {
            continue;
        };
        let slash = parts == 1 && tag.contains('/');
        if !path.is_empty() && !tag.is_empty() && !slash {
            return Ok((path.into(), Some(tag.to_owned())));
        }
    }
    Ok((whole, None))
}

impl Reference {
    /// Reads `[HOST[:PORT]/]NAME[:TAG][@DIGEST]` by Docker's rules.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::BadName { text: text.to_owned(), why: why.to_owned() };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DOCKER_HUB, name),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if !path.split('/').all(is_component) || path.len() > 255 {
            return Err(wrong("a repository's name has lower-case letters, digits and `._-`"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(wrong("a tag has up to 128 letters, digits and `._-`"));
        }
        let official = host == DOCKER_HUB && !path.contains('/');
        let repository = if official { format!("library/{path}") } else { path.to_owned() };
        let target = match digest {
            Some(digest) => Target::Digest(digest),
            None => Target::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { host: host.to_owned(), repository, target })
    }

    /// Whether it is always the same image.
    pub fn is_fixed(&self) -> bool {
        matches!(self.target, Target::Digest(_))
    }

    /// The tag or digest.
    pub fn target(&self) -> &str {
        match &self.target {
            Target::Tag(tag) => tag,
            Target::Digest(digest) => digest.as_str(),
        }
    }

    /// Where the registry's service answers.
    pub(crate) fn service(&self) -> &str {
        match self.host.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            host => host,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if matches!(self.target, Target::Tag(_)) { ':' } else { '@' };
        write!(f, "{}/{}{sign}{}", self.host, self.repository, self.target())
    }
}

fn is_host(text: &str) -> bool {
    let looks = text.contains(['.', ':']) || text == "localhost";
    let port = text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    looks && port && !text.starts_with(['.', ':', '-']) && text.chars().all(good)
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(alphanumeric).filter(|between| !between.is_empty());
    let good = |s: &str| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-');
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && separators.into_iter().all(good)
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        Reference::parse(text).map_or_else(|_| "wrong".to_owned(), |r| r.to_string())
    }

    #[test]
    fn references_are_read_as_docker_does() {
        let digest = Digest::of(b"");
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("ocaml/opam:debian-13", "docker.io/ocaml/opam:debian-13"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/a/b__c:v1.2", "127.0.0.1:5000/a/b__c:v1.2"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("quay.io/a--b/c.d", "quay.io/a--b/c.d:latest"),
            ("Busybox", "wrong"),
            ("a//b", "wrong"),
            ("a..b", "wrong"),
            ("-a", "wrong"),
            ("a:", "wrong"),
            ("a:b c", "wrong"),
            ("a@sha256:12", "wrong"),
            ("../a", "wrong"),
            ("localhost:99999/a", "wrong"),
            ("", "wrong"),
        ] {
            assert_eq!(check(text), expected, "{text}");
        }
        let pinned = format!("docker.io/library/busybox@{digest}");
        assert_eq!(check(&format!("busybox@{digest}")), pinned);
        assert_eq!(check(&format!("busybox:1@{digest}")), pinned);
    }

    #[test]
    fn files_may_have_a_tag() {
        let parse = |text: &str| match ImageName::parse(text).unwrap() {
            ImageName::Layout { path, tag } | ImageName::DockerArchive { path, tag } => {
                (path.display().to_string(), tag)
            }
            ImageName::Registry(_) => panic!("{text}"),
        };
        let is = |path: &str, tag: Option<&str>| (path.to_owned(), tag.map(str::to_owned));
        assert_eq!(parse("oci:/none/a"), is("/none/a", None));
        assert_eq!(parse("oci:/none/a:v1"), is("/none/a", Some("v1")));
        assert_eq!(parse("oci:/none:1/a"), is("/none:1/a", None));
        assert_eq!(parse("docker-archive:/none/a.tar"), is("/none/a.tar", None));
        assert_eq!(parse("docker-archive:/none/a.tar:x/y:1"), is("/none/a.tar", Some("x/y:1")));
        assert!(ImageName::parse("oci:").is_err());
    }
}
