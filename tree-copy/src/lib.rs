//! Copy, compare and remove directory trees with everything they hold.
