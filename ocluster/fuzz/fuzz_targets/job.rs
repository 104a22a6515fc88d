//! A job's description holds anything, and reading it does no harm.
//!
//! `cargo fuzz run job` in `ocluster`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    ocluster::testing::hostile::description(bytes);
});
