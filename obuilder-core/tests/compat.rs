//! Dockerfiles of recorded OBuilder builds, and their specs printed and read again, see `compat/README.md`.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

#[allow(dead_code, reason = "each test program uses its own part")]
mod compat_case;

use compat_case::Case;
use obuilder_core::bstr::ByteVec;
use obuilder_core::dockerfile::{Escape, Options, dockerfile};
use obuilder_core::spec::Spec;

#[test]
fn dockerfiles_are_obuilders() {
    for case in Case::all() {
        for (file, buildkit) in
            [("expected.Dockerfile", false), ("expected.buildkit.Dockerfile", true)]
        {
            let mut printed =
                dockerfile(&case.spec(), Options { buildkit, escape: Escape::Unix }).unwrap();
            // The program ends its output with one more newline.
            printed.push_byte(b'\n');
            assert_eq!(printed, case.file(file), "{}/{file}", case.name());
        }
    }
}

#[test]
fn specs_survive_printing() {
    for case in Case::all() {
        let sexp = case.spec().to_sexp();
        for printed in [sexp.to_string(), sexp.to_machine()] {
            assert_eq!(Spec::parse(printed.as_bytes()).unwrap(), case.spec(), "{printed}");
        }
    }
}
