//! Garbled bytes and other people's descriptions of jobs do no harm. `ocluster/fuzz` looks for more of them.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use ocluster::testing::hostile::{conversation, description};
use proptest::prelude::*;

/// What a real scheduler has said to a real worker.
fn recorded() -> Vec<u8> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/worker.from-scheduler.bin");
    std::fs::read(dir).unwrap()
}

#[test]
fn what_a_real_scheduler_says_is_understood() {
    conversation(&recorded());
    conversation(b"");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_garbled_scheduler_is_got_rid_of(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = recorded();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        conversation(&bytes);
    }

    #[test]
    fn noise_is_no_scheduler(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        conversation(&bytes);
    }

    #[test]
    fn noise_is_no_job(words in prop::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..60)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        description(&bytes);
    }
}
