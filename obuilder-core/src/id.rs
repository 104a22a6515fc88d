//! Ids: the content hash a result is known by.

use std::fmt;

use bstr::{BStr, BString};
use sha2::{Digest, Sha256};

use crate::manifest::CopyItems;
use crate::sexp::Sexp;
use crate::spec::User;
use crate::step::SecretMount;

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

impl<'de> serde::Deserialize<'de> for ResultId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a result id")))
    }
}

/// The id of the base image called `name`.
pub fn base_id(name: &BStr) -> ResultId {
    ResultId::of(name)
}

/// What the result of a `run` depends on.
///
/// Secrets are among it, so nothing but their hash leaves this type: it has no `Debug`.
#[derive(Clone, Copy)]
pub struct RunKey<'a> {
    /// What it runs on.
    pub base: &'a ResultId,
    /// Its working directory.
    pub workdir: &'a BStr,
    /// Who runs it.
    pub user: &'a User,
    /// Its environment, the newest entry first.
    pub env: &'a [(BString, BString)],
    /// The command, as the spec has it.
    pub cmd: &'a BStr,
    /// The shell that is given the command.
    pub shell: &'a [BString],
    /// Its networks.
    pub network: &'a [BString],
    /// Its secrets, in the order of the spec.
    pub secrets: &'a [SecretMount],
}

impl RunKey<'_> {
    /// The id of the result.
    pub fn id(&self) -> ResultId {
        let field = |name, value| Sexp::tagged(name, [value]);
        let atom = |text: &BStr| Sexp::atom(text);
        // OBuilder gathers the secrets back to front.
        let secrets = self.secrets.iter().rev().map(|secret| {
            Sexp::list([
                field("value", Sexp::atom(secret.value.clone())),
                field("target", Sexp::atom(secret.target.clone())),
            ])
        });
        let key = Sexp::list([
            field("base", Sexp::atom(self.base.as_str())),
            field("workdir", atom(self.workdir)),
            field("user", self.user.to_sexp()),
            field("env", Sexp::list(self.env.iter().map(|(k, v)| Sexp::atoms([k, v])))),
            field("cmd", atom(self.cmd)),
            field("shell", Sexp::atoms(self.shell)),
            field("network", Sexp::atoms(self.network)),
            field("mount_secrets", Sexp::list(secrets)),
        ]);
        ResultId::of(key.to_machine().as_bytes())
    }
}

/// What the result of a `copy` depends on.
#[derive(Debug, Clone, Copy)]
pub struct CopyKey<'a> {
    /// What it copies into.
    pub base: &'a ResultId,
    /// Who owns the copies.
    pub user: &'a User,
    /// What is copied where.
    pub items: &'a CopyItems,
}

impl CopyKey<'_> {
    /// The id of the result.
    pub fn id(&self) -> ResultId {
        let key = Sexp::list([
            Sexp::tagged("base", [Sexp::atom(self.base.as_str())]),
            Sexp::tagged("user", [self.user.to_sexp()]),
            Sexp::tagged("op", [self.items.to_sexp()]),
        ]);
        ResultId::of(key.to_machine().as_bytes())
    }
}
