//! Copies, compares and removes directory trees with everything they hold.
//!
//! [`copy_tree`] is where to start. Every operation goes through descriptors of directories and never follows a
//! symbolic link, so it stays inside the trees it was given whatever they hold and whoever changes them meanwhile;
//! paths may be deeper than `PATH_MAX`. Work is spread over a few threads, and small trees stay on the caller's own.
//!
//! This crate knows nothing of builds, stores or images.

mod error;
mod meta;
mod place;

mod listing;
mod queue;
mod walk;

mod attributes;
mod contents;
mod links;

mod copy;
mod entry_copy;

mod draft;
mod index;
mod record;
mod scan;

mod bring;
mod link_tree;
mod plan;
mod snapshot;
mod verify;

mod chown;
mod devices;
mod digest;
mod remove;
mod share;
mod size;
mod special;
mod sync;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "macos/mod.rs"]
mod platform;

#[cfg(feature = "testing")]
pub mod testing;

pub use bring::bring_tree;
pub use chown::chown_tree;
pub use copy::{Copied, How, Options, Owners, copy_tree};
pub use devices::remove_devices;
pub use digest::{digest_tree, stamp_tree};
pub use draft::Draft;
pub use error::Error;
pub use index::{Index, Summary};
pub use link_tree::link_tree;
pub use plan::{Plan, plan_change};
pub use record::Moment;
pub use remove::{NotRemoved, remove_tree};
pub use scan::index_tree;
pub use share::{Shared, Trust, share_identical};
pub use size::{TreeSize, tree_size};
pub use snapshot::{Known, Snapped, snapshot_tree};
pub use special::{make_device, make_fifo};
pub use sync::{sync_dir, sync_tree, sync_volume};
pub use verify::check_index;
