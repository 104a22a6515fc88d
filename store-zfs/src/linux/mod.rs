//! What Linux has of its own.

mod kernel;
mod mounted;

use crate::mount::{ByCommand, Mounter};

/// Whether `zfs allow` is no use to a user who is not root.
pub(crate) const ONLY_ROOT_MOUNTS: bool = true;

/// The kernel's own calls where it knows ZFS; `zfs mount` otherwise, which then says why it cannot be.
pub(crate) fn mounter() -> Box<dyn Mounter> {
    if kernel::knows_zfs() { Box::new(kernel::Kernel) } else { Box::<ByCommand>::default() }
}
