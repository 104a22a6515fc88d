//! No text of a `.cap` file makes the parser panic, and what it reads it prints and reads again.
//!
//! `cargo fuzz run cap` in `ocluster`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ocluster::CapUri;

fuzz_target!(|text: &str| {
    if let Ok(uri) = text.trim().parse::<CapUri>() {
        assert_eq!(uri.to_string().parse::<CapUri>().as_ref(), Ok(&uri), "{text}");
    }
});
