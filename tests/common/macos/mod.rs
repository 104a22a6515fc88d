//! What macOS has instead.

pub mod volume;
