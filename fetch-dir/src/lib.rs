//! Base images from plain directories.
