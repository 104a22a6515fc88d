//! Digests, and readers that check them.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

const PREFIX: &str = "sha256:";

/// The SHA-256 digest of some bytes, as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// Reads `sha256:…`. Other algorithms are not known.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::BadName { text: text.to_owned(), why: why.to_owned() };
        let hex =
            text.strip_prefix(PREFIX).ok_or_else(|| wrong("only sha256 digests are known"))?;
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 64 || !hex.bytes().all(digit) {
            return Err(wrong("a sha256 digest has 64 lower-case hexadecimal digits"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Of all that went into `hash`.
    pub(crate) fn finish(hash: Sha256) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(hash.finalize())))
    }

    /// With its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without it.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The first digits, for messages.
    pub fn short(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + 12]
    }

    /// Fails unless `bytes` have this digest; `what` says what they are.
    pub fn check(&self, bytes: &[u8], what: &str) -> Result<()> {
        let found = Self::of(bytes);
        if found == *self {
            return Ok(());
        }
        let (expected, found) = (self.to_string(), found.to_string());
        Err(Error::Damaged { what: what.to_owned(), expected, found })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Hands bytes on and fails at their end, or as soon as there are too many, unless they are those that were promised.
pub(crate) struct Checked<R> {
    inner: R,
    hash: Option<Sha256>,
    left: u64,
    size: u64,
    digest: Digest,
}

impl<R: Read> Checked<R> {
    pub(crate) fn new(inner: R, digest: &Digest, size: u64) -> Self {
        let hash = Some(Sha256::new());
        Self { inner, hash, left: size, size, digest: digest.clone() }
    }

    fn damaged(&self, expected: String, found: String) -> io::Error {
        let what = format!("blob {}", self.digest);
        Error::Damaged { what, expected, found }.into_io()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(hash) = self.hash.take() else { return Ok(()) };
        if self.left > 0 {
            let found = format!("{} bytes", self.size - self.left);
            return Err(self.damaged(format!("{} bytes", self.size), found));
        }
        let found = Digest::finish(hash);
        if found == self.digest {
            return Ok(());
        }
        Err(self.damaged(self.digest.to_string(), found.to_string()))
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.end()?;
            return Ok(0);
        }
        let Some(left) = self.left.checked_sub(read as u64) else {
            return Err(self.damaged(format!("{} bytes", self.size), "longer".to_owned()));
        };
        self.left = left;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..read]);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], size: u64, digest: &Digest) -> std::result::Result<(), String> {
        let read = Checked::new(bytes, digest, size).read_to_end(&mut Vec::new());
        read.map(drop).map_err(|e| Error::io("read", e).to_string())
    }

    #[test]
    fn only_the_promised_bytes_pass() {
        let digest = Digest::of(b"hello");
        assert_eq!(check(b"hello", 5, &digest), Ok(()));
        let error = |bytes, size| check(bytes, size, &digest).unwrap_err();
        assert!(error(b"hell", 5).ends_with("it should be 5 bytes, and is 4 bytes"));
        assert!(error(b"hello!", 5).ends_with("it should be 5 bytes, and is longer"));
        assert!(error(b"hallo", 5).contains(&format!("it should be {digest}, and is sha256:")));
    }

    #[test]
    fn digests_are_read() {
        let digest = Digest::of(b"");
        assert_eq!(Digest::parse(digest.as_str()).unwrap(), digest);
        assert_eq!(digest.short(), "e3b0c44298fc");
        let upper = digest.as_str().replace("b0c", "B0C");
        for bad in ["", "sha256:", "sha512:00", &digest.as_str()[..70], &upper] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }
}
