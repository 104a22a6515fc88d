//! Whatever a scheduler says, a worker neither panics nor hangs.
//!
//! `mkdir -p fuzz/corpus/scheduler && cp tests/recorded/*.from-scheduler.bin fuzz/corpus/scheduler && cargo fuzz run scheduler`
//! in `ocluster`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ocluster::testing::hostile::conversation(bytes));
