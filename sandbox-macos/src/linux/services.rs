//! Services that the system runs for a user.

/// There is no such service for a user who never logs in.
pub(crate) fn stop_of(_uid: u32) {}
