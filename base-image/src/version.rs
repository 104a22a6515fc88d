//! Versions of OCaml and opam.

use std::fmt;
use std::str::FromStr;

/// A version of OCaml, such as `5.4.1`, `5.1.0~beta1` or `5.2.0+trunk`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ocaml {
    text: String,
    major: u32,
    minor: String,
}

impl FromStr for Ocaml {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a version of OCaml, such as `5.4.1`");
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        let patch = rest.find(['~', '+']).map_or(rest, |at| &rest[..at]);
        let word = |c: u8| c.is_ascii_alphanumeric() || b"~+-._".contains(&c);
        if !number(major) || !number(minor) || !number(patch) || !rest.bytes().all(word) {
            return Err(wrong());
        }
        let major = major.parse().map_err(|_| wrong())?;
        Ok(Self { text: text.to_owned(), major, minor: minor.to_owned() })
    }
}

impl Ocaml {
    /// The release without its patch level, such as `5.4`, as images are named; `4.08` keeps its zero.
    pub fn short(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// The opam package that is this compiler.
    pub fn package(&self) -> String {
        let name = if self.text.contains('+') { "ocaml-variants" } else { "ocaml-base-compiler" };
        format!("{name}.{}", self.text)
    }

    /// What the compiler calls itself, or how that begins: a variant's own name is not known.
    pub fn reported(&self) -> String {
        match self.text.split_once('+') {
            Some(_) => format!("{}.", self.short()),
            None => self.text.clone(),
        }
    }

    /// Whether the compiler calls itself exactly [`Ocaml::reported`].
    pub fn reports_exactly(&self) -> bool {
        !self.text.contains('+')
    }
}

impl fmt::Display for Ocaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Ocaml {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ocaml> for String {
    fn from(version: Ocaml) -> Self {
        version.text
    }
}

/// A version of opam as programs are named for it: `2.1` for `opam-2.1`, or `dev`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Opam(String);

impl FromStr for Opam {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        let release = text.contains('.') && text.split('.').all(number);
        match release || text == "dev" {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("`{text}` is not a version of opam, such as `2.1` or `dev`")),
        }
    }
}

impl Opam {
    /// Its program, such as `opam-2.1`.
    pub fn program(&self) -> String {
        format!("opam-{}", self.0)
    }
}

impl fmt::Display for Opam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Opam {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Opam> for String {
    fn from(version: Opam) -> Self {
        version.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_ocaml() {
        let check = |text: &str, short: &str, package: &str, reported: &str| {
            let version: Ocaml = text.parse().unwrap();
            assert_eq!(version.short(), short);
            assert_eq!(version.package(), package);
            assert_eq!(version.reported(), reported);
        };
        check("5.4.1", "5.4", "ocaml-base-compiler.5.4.1", "5.4.1");
        check("4.08.0", "4.08", "ocaml-base-compiler.4.08.0", "4.08.0");
        check("5.1.0~beta1", "5.1", "ocaml-base-compiler.5.1.0~beta1", "5.1.0~beta1");
        check("5.2.0+trunk", "5.2", "ocaml-variants.5.2.0+trunk", "5.2.");
        for bad in ["5", "5.4", "5.4.", "5.x.1", "5.4.1 ", "5.4.1;ls", "5.4.1/..", ".4.1", ""] {
            let error = bad.parse::<Ocaml>().unwrap_err();
            assert_eq!(error, format!("`{bad}` is not a version of OCaml, such as `5.4.1`"));
        }
    }

    #[test]
    fn versions_of_opam() {
        for good in ["2.1", "2.1.6", "dev"] {
            assert_eq!(good.parse::<Opam>().unwrap().program(), format!("opam-{good}"));
        }
        for bad in ["2", "2.", "latest", "2.1-rc", "../x", ""] {
            assert!(bad.parse::<Opam>().is_err(), "{bad}");
        }
    }
}
