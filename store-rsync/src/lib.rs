//! Build results as directory trees, on any filesystem, laid out as OBuilder's rsync stores are.
//!
//! [`RsyncStore::open`] is where to start; `layout` draws what lies on the disk. There is no index in here, and no rsync:
//! trees are copied by `tree_copy`.

mod mode;

mod layout;
mod lock;
mod trash;

mod ahead;
mod snap;
mod tick;
mod warm;

mod cache;
mod cache_name;
mod check;
mod check_warm;
mod pending;
mod store;
mod sweep;

pub use mode::{Mode, UnknownMode};
pub use store::RsyncStore;
pub use warm::WarmTrees;
