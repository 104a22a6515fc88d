//! Ids: the content hash a result is known by.

use std::fmt;

use sha2::{Digest, Sha256};

/// The id of a result: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResultId(String);

impl ResultId {
    /// Length of an id in characters.
    pub const LEN: usize = 64;

    /// The id of what `key` describes: its SHA-256.
    pub fn of(key: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(key)))
    }

    /// Reads an id; `None` when `text` is not 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == Self::LEN && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, enough for people to tell results apart.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResultId({})", self.short())
    }
}

impl serde::Serialize for ResultId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
