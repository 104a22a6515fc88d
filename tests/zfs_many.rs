//! The tests of many processes, unchanged, with a ZFS store: `common` makes a pool for every program whose name begins so.

#[path = "many.rs"]
mod many;
