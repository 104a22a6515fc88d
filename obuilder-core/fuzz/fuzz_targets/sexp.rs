//! The reader never panics, and both printers print what it reads back.
//!
//! `cargo fuzz run sexp` in `obuilder-core`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use obuilder_core::sexp::Sexp;

fuzz_target!(|source: &[u8]| {
    let Ok(sexp) = Sexp::parse(source) else { return };
    for printed in [sexp.to_machine(), sexp.to_string()] {
        assert_eq!(Sexp::parse(printed.as_bytes()).as_ref(), Ok(&sexp), "{printed}");
    }
});
