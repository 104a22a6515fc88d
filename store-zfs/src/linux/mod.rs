//! What Linux has of its own.

mod kernel;
mod mounted;

use crate::mount::{ByCommand, Mounter};

/// The kernel's own calls where it knows ZFS; `zfs mount` otherwise, which then says why it cannot be.
pub(crate) fn mounter() -> Box<dyn Mounter> {
    if kernel::knows_zfs() { Box::new(kernel::Kernel) } else { Box::<ByCommand>::default() }
}
