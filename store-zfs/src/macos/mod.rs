//! What macOS has of its own. Mounting is left to `zfs`.

use crate::mount::{ByCommand, Mounter};

/// Whether `zfs allow` is no use to a user who is not root.
pub(crate) const ONLY_ROOT_MOUNTS: bool = false;

/// Mounting by `zfs mount`.
pub(crate) fn mounter() -> Box<dyn Mounter> {
    Box::<ByCommand>::default()
}
