//! The store keeps the contract in every mode, on every filesystem it is for.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use obuilder_core::Store;
use obuilder_core::store_conformance;
use store_rsync::Mode;

use common::{btrfs, open, open_warm, plain, xfs};

fn copy(dir: &Path) -> Box<dyn Store> {
    Box::new(open(dir, Mode::Copy))
}

fn hardlink(dir: &Path) -> Box<dyn Store> {
    Box::new(open(dir, Mode::Hardlink))
}

fn hardlink_unsafe(dir: &Path) -> Box<dyn Store> {
    Box::new(open(dir, Mode::HardlinkUnsafe))
}

/// Even the smallest trees are kept warm.
fn warm(dir: &Path) -> Box<dyn Store> {
    Box::new(open_warm(dir, Mode::Auto))
}

/// On a filesystem with clones nothing else will do.
fn reflink(dir: &Path) -> Box<dyn Store> {
    let store = open(dir, Mode::Auto);
    assert_eq!(store.mode(), Mode::Reflink);
    Box::new(store)
}

store_conformance!(plain_copy, plain, copy);
store_conformance!(plain_hardlink, plain, hardlink);
store_conformance!(plain_hardlink_unsafe, plain, hardlink_unsafe);
store_conformance!(xfs_reflink, xfs, reflink);
store_conformance!(btrfs_reflink, btrfs, reflink);
store_conformance!(plain_warm, plain, warm);
store_conformance!(xfs_warm, xfs, warm);
store_conformance!(btrfs_warm, btrfs, warm);
