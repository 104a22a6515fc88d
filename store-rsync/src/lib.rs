//! Build results as directory trees, on any filesystem.
