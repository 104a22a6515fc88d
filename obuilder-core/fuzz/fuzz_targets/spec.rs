//! The parser never panics, an error can be shown, and a spec survives printing, headings and Dockerfiles.
//!
//! `cargo fuzz run spec -- -dict=fuzz/spec.dict` in `obuilder-core`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use obuilder_core::dockerfile::{Escape, Options, dockerfile};
use obuilder_core::spec::{Spec, op_heading};

fuzz_target!(|source: &[u8]| match Spec::parse(source) {
    Err(error) => assert_eq!(error.excerpt(source).lines().count(), 3, "{error}"),
    Ok(spec) => {
        let printed = spec.to_sexp().to_machine();
        assert_eq!(Spec::parse(printed.as_bytes()).as_ref(), Ok(&spec), "{printed}");
        for op in &spec.ops {
            assert!(op_heading(b"/", op).starts_with("/: "));
        }
        for escape in [Escape::Unix, Escape::Windows] {
            let _ = dockerfile(&spec, Options { buildkit: true, escape });
        }
    }
});
