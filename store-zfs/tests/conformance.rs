//! The store keeps the contract on real ZFS in both its ways to mount, and on the stand-in.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use obuilder_core::Store;
use obuilder_core::store_conformance;

use common::{real, stand_in};

fn open(dir: &Path) -> Box<dyn Store> {
    Box::new(common::open(dir))
}

fn open_by_command(dir: &Path) -> Box<dyn Store> {
    Box::new(common::open_by_command(dir))
}

store_conformance!(zfs, real, open);
store_conformance!(zfs_by_command, real, open_by_command);
store_conformance!(stand_in_by_command, stand_in, open_by_command);
