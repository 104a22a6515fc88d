//! What macOS has of its own: nothing. Mounting is left to `zfs`.

use crate::mount::{ByCommand, Mounter};

/// Mounting by `zfs mount`.
pub(crate) fn mounter() -> Box<dyn Mounter> {
    Box::<ByCommand>::default()
}
