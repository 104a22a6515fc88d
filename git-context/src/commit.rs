//! Names of commits.

use std::fmt;

use crate::error::{Error, Result};
use crate::shown::shown;

/// A commit's full name: 40 (SHA-1) or 64 (SHA-256) hexadecimal digits, kept in lower case.
///
/// Branches, tags, abbreviations and Git's expressions are no names of commits: what is built must not depend on when it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(String);

/// How a repository names its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ObjectFormat {
    Sha1,
    Sha256,
}

impl CommitId {
    /// Reads a commit's name; [`Error::Refused`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hexadecimal && matches!(text.len(), 40 | 64) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let why = if hexadecimal && !text.is_empty() {
            format!("it has {} hexadecimal digits, and a full name has 40 or 64", text.len())
        } else {
            "it is not a hexadecimal number".into()
        };
        Err(Error::Refused {
            what: format!("the commit `{}`", shown(text)),
            why,
            hint: "name the commit in full, as `git rev-parse` prints it".into(),
        })
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn format(&self) -> ObjectFormat {
        if self.0.len() == 40 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_only() {
        let lower = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(CommitId::parse(&lower.to_uppercase()).unwrap().as_str(), lower);
        assert_eq!(CommitId::parse(&"a".repeat(64)).unwrap().format(), ObjectFormat::Sha256);
        let bad = ["", "master", "--upload-pack=touch /tmp/x", "abc", "HEAD~1", &"g".repeat(40)];
        for text in bad.into_iter().chain([format!("{lower}\n").as_str(), &format!("-{lower}")]) {
            let error = CommitId::parse(text).unwrap_err().to_string();
            assert!(error.contains("is refused") && !error.contains('\n'), "{text:?}: {error}");
        }
    }
}
