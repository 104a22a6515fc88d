//! The sets of settings that several commands share.

use super::flags::Set;
use super::table::Key;

/// What every command needs that looks into a store.
#[derive(Debug, Clone)]
pub(crate) struct OfStore;

impl Set for OfStore {
    const KEYS: &'static [Key] = &[Key::Store, Key::RsyncMode];
}

/// What a command needs to run steps, or to say how they would be run.
#[derive(Debug, Clone)]
pub(crate) struct OfSteps;

impl Set for OfSteps {
    const KEYS: &'static [Key] = &[
        Key::Store,
        Key::RsyncMode,
        Key::FastSync,
        Key::Images,
        Key::Fetcher,
        Key::Pull,
        Key::Platform,
        Key::Layers,
        Key::MaxImageSize,
        Key::ImageDevices,
        Key::PlainHttp,
        Key::CaFile,
        Key::DockerConfig,
        Key::Retries,
        Key::Fuse,
        Key::Home,
        Key::Prefixes,
        Key::Uid,
        Key::UserPrefix,
        Key::Slots,
        Key::Isolation,
        Key::MaxCpu,
        Key::MaxMemory,
        Key::MaxProcesses,
        Key::MaxFileSize,
    ];
}
