//! FIFOs and devices, for those who make trees from something else than a tree.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode};
use rustix::io::Result;

use crate::platform;

/// Makes the FIFO `name` in `dir`, with this mode. Fails with `ENOTSUP` where the system has no call for it.
pub fn make_fifo(dir: impl AsFd, name: &CStr, mode: Mode) -> Result<()> {
    platform::make_fifo(dir.as_fd(), name)?;
    platform::set_mode_of_name(dir.as_fd(), name, mode)
}

/// Makes the device `name` in `dir`, with this mode; only root may. Fails with `ENOTSUP` where the system has no call for it.
pub fn make_device(
    dir: impl AsFd,
    name: &CStr,
    kind: FileType,
    device: u64,
    mode: Mode,
) -> Result<()> {
    platform::make_device(dir.as_fd(), name, kind, device)?;
    platform::set_mode_of_name(dir.as_fd(), name, mode)
}
