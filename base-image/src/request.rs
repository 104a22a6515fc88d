//! What is asked for.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::names::{alias_of, check_name, release_of};
use crate::version::{Ocaml, Opam};

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// Its name, as `(from NAME)` has it.
    pub name: String,
    /// Its compiler.
    pub ocaml: Ocaml,
    /// The versions of opam in it; each is a program `opam-VERSION`.
    pub opam: Vec<Opam>,
    /// The one that is called `opam`.
    pub default_opam: Opam,
    /// Homebrew's prefix, which shows `~/local` to steps.
    pub prefix: PathBuf,
    /// Whether it is the default image, which goes by a second name too (see [`crate::alias_of`]).
    pub default: bool,
}

impl Request {
    /// Says what is contradictory in it.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Request(what));
        check_name(&self.name).map_err(Error::Request)?;
        if let Some(release) = release_of(&self.name)
            && release != self.ocaml.short()
        {
            let (name, ocaml) = (&self.name, &self.ocaml);
            return wrong(format!("the name `{name}` promises OCaml {release}, not {ocaml}"));
        }
        if self.default && alias_of(&self.name).is_none() {
            let name = &self.name;
            return wrong(format!(
                "the default image must have a name of the form SYSTEM-ocaml-VERSION, not `{name}`"
            ));
        }
        for (at, version) in self.opam.iter().enumerate() {
            if self.opam[..at].contains(version) {
                return wrong(format!("opam {version} is named twice"));
            }
        }
        if !self.opam.contains(&self.default_opam) {
            let (default, all) = (&self.default_opam, words(&self.opam));
            return wrong(format!("the default opam, {default}, is none of those wanted: {all}"));
        }
        match self.prefix.to_str() {
            Some(text)
                if text.bytes().all(|c| c.is_ascii_alphanumeric() || b"/._-".contains(&c)) =>
            {
                Ok(())
            }
            _ => wrong(format!(
                "Homebrew cannot live at `{}`: the path must be plain letters, digits and `/ . _ -`",
                self.prefix.display()
            )),
        }
    }

    /// The prefix as text; [`Request::check`] saw to that.
    pub(crate) fn prefix(&self) -> String {
        self.prefix.to_string_lossy().trim_end_matches('/').to_owned()
    }
}

/// The versions in a sentence.
pub(crate) fn words(versions: &[Opam]) -> String {
    let words: Vec<_> = versions.iter().map(Opam::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request(ocaml: &str) -> Request {
        let ocaml: Ocaml = ocaml.parse().unwrap();
        Request {
            name: crate::usual_name(&ocaml),
            ocaml,
            opam: ["2.1", "dev"].map(|version| version.parse().unwrap()).to_vec(),
            default_opam: "2.1".parse().unwrap(),
            prefix: "/usr/local".into(),
            default: false,
        }
    }

    #[test]
    fn contradictions_are_found() {
        let check = |change: &dyn Fn(&mut Request), expected: &str| {
            let mut request = request("5.4.1");
            change(&mut request);
            let found = request.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(
                found.contains(expected) && (found.is_empty() == expected.is_empty()),
                "{found}"
            );
        };
        check(&|_| {}, "");
        check(&|r| r.name = "x-ocaml-4.14".into(), "promises OCaml 4.14, not 5.4.1");
        check(&|r| (r.name, r.default) = ("mine".into(), true), "SYSTEM-ocaml-VERSION");
        check(&|r| r.name = "mine".into(), "");
        check(&|r| r.name = "a/b".into(), "cannot name an image");
        check(
            &|r| r.default_opam = "2.5".parse().unwrap(),
            "2.5, is none of those wanted: 2.1, dev",
        );
        check(&|r| r.opam.push("dev".parse().unwrap()), "opam dev is named twice");
        check(&|r| r.prefix = "/a b".into(), "Homebrew cannot live at `/a b`");
    }
}
