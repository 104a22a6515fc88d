//! What only Linux has.

pub mod volume;
