//! A fleet's table of versions: several images in one file.

use std::path::Path;

use crate::error::{Error, Result};
use crate::names::usual_name;
use crate::request::Request;
use crate::version::{Ocaml, Opam};

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Table {
    opam: Option<Vec<Opam>>,
    default_opam: Option<Opam>,
    image: Vec<Row>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Row {
    ocaml: Ocaml,
    to: Option<String>,
    opam: Option<Vec<Opam>>,
    default_opam: Option<Opam>,
    #[serde(default)]
    default: bool,
}

/// Reads the images that `text`, the contents of the file at `path`, asks for, in its order.
///
/// `opam` are the versions where the table names none, `prefix` is Homebrew's place. Of several versions the first is the default.
pub fn read(path: &Path, text: &str, opam: &[Opam], prefix: &Path) -> Result<Vec<Request>> {
    let table: Table = toml::from_str(text)
        .map_err(|source| Error::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    let wrong = |what: String| Error::Table { path: path.to_owned(), what };
    let mut requests: Vec<Request> = Vec::new();
    for row in table.image {
        let versions = row.opam.or_else(|| table.opam.clone()).unwrap_or_else(|| opam.to_vec());
        let default_opam = row
            .default_opam
            .or_else(|| table.default_opam.clone())
            .or_else(|| versions.first().cloned())
            .ok_or_else(|| wrong(format!("OCaml {} is to have no opam", row.ocaml)))?;
        let request = Request {
            name: row.to.unwrap_or_else(|| usual_name(&row.ocaml)),
            ocaml: row.ocaml,
            opam: versions,
            default_opam,
            prefix: prefix.to_owned(),
            default: row.default,
        };
        request.check().map_err(|error| wrong(error.to_string()))?;
        if requests.iter().any(|other| other.name == request.name) {
            return Err(wrong(format!("two images are called `{}`", request.name)));
        }
        if request.default && requests.iter().any(|other| other.default) {
            return Err(wrong(format!("`{}` is the second default image", request.name)));
        }
        requests.push(request);
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> std::result::Result<Vec<Request>, String> {
        let all = ["2.1".parse().unwrap()];
        read(Path::new("fleet.toml"), text, &all, Path::new("/usr/local"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_table_gives_requests() {
        let text = "opam = ['2.2', 'dev']\ndefault-opam = 'dev'\n\
                    [[image]]\nocaml = '4.14.2'\nopam = ['2.0']\ndefault-opam = '2.0'\n\
                    [[image]]\nocaml = '5.4.1'\ndefault = true\n[[image]]\nocaml='5.4.0'\nto='old'";
        let all = table(text).unwrap();
        let brief = all.iter().map(|r| {
            let opam = crate::request::words(&r.opam);
            format!("{} {} [{opam}] {} {}", r.name, r.ocaml, r.default_opam, r.default)
        });
        let expected = [
            "macos-homebrew-ocaml-4.14 4.14.2 [2.0] 2.0 false",
            "macos-homebrew-ocaml-5.4 5.4.1 [2.2, dev] dev true",
            "old 5.4.0 [2.2, dev] dev false",
        ];
        assert_eq!(brief.collect::<Vec<_>>(), expected);
        assert_eq!(table("[[image]]\nocaml = '5.4.1'").unwrap()[0].default_opam.to_string(), "2.1");
    }

    #[test]
    fn mistakes_are_told() {
        let check = |text: &str, expected: &str| {
            let found = table(text).unwrap_err();
            assert!(found.contains("fleet.toml") && found.contains(expected), "{found}");
        };
        let twice = "[[image]]\nocaml = '5.4.1'\n[[image]]\nocaml = '5.4.0'";
        check(twice, "two images are called `macos-homebrew-ocaml-5.4`");
        let defaults =
            "[[image]]\nocaml='5.4.1'\ndefault=true\n[[image]]\nocaml='5.3.0'\ndefault=true";
        check(defaults, "`macos-homebrew-ocaml-5.3` is the second default image");
        check("[[image]]\nocaml = '5.4.1'\ndefault-opam = '9.9'", "9.9, is none of those wanted");
        assert!(table("[[image]]\nocaml = '5'").is_err());
        assert!(table("[[image]]\nocaml = '5.4.1'\nfrom = 'x'").is_err());
    }
}
