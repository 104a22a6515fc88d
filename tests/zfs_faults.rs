//! The tests of kills, unchanged, with a ZFS store: `common` makes a pool for every program whose name begins so.

#[path = "faults.rs"]
mod faults;
