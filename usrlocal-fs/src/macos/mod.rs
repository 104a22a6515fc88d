//! macOS, on the kernel extension of macFUSE.

mod library;

pub(crate) mod credentials;
pub(crate) mod handle;
pub(crate) mod listing;
pub(crate) mod meta;
pub(crate) mod mount;
pub(crate) mod special;
pub(crate) mod supervisor;
