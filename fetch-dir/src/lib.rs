//! Base images from plain directories: `(from NAME)` is a copy of the directory `NAME` in one of the image directories,
//! and `(from scratch)` an empty tree.
//!
//! [`DirFetcher`] is where to start. Nothing is ever brought from a network.

mod env_file;
mod image;

mod directory;
mod fetcher;

pub use env_file::BadLine;
pub use fetcher::DirFetcher;
pub use image::{ImageDir, SCRATCH};
