//! Build results as ZFS datasets, laid out as OBuilder's ZFS stores are: a step costs the same however large its tree is.
//!
//! [`ZfsStore::open`] is where to start; `layout` draws what lies in the pool, and `command` is the only place that runs `zfs`.
//! [`ZfsFetcher`] brings base images that lie in the pool, and puts them there. There is no index in here.

mod command;
mod names;

mod lock;
mod mount;
mod tree;

mod known;
mod layout;
mod openings;
mod pin;
mod trash;

mod adopt;
mod cache;
mod check;
mod claim;
mod exchange;
mod fetcher;
mod held;
mod image;
mod pending;
mod store;
mod sweep;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "macos/mod.rs"]
mod platform;

pub use command::{PERMISSIONS, ZfsFailed};
pub use fetcher::ZfsFetcher;
pub use image::Put;
pub use layout::Place;
pub use store::{Options, ZfsStore};
