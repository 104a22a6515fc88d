//! Makes images of trees: one layer for the differences between each tree and the one before.
//!
//! The same trees give the same bytes, wherever and whenever that is done.

mod changes;
mod listing;
mod tar_writer;
mod target;
mod write;

use std::path::PathBuf;

use obuilder_core::Cancel;

pub use target::Exporter;

/// One result, to become a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its tree.
    pub tree: PathBuf,
    /// What made it, for the image's history.
    pub heading: String,
}

/// What becomes an image.
#[derive(Clone)]
pub struct Plan<'a> {
    /// The results from the base on.
    pub steps: Vec<Step>,
    /// Whether only the last counts, as one layer.
    pub squash: bool,
    /// The environment of those who build on the image.
    pub env: Vec<(String, String)>,
    /// Where its commands ran last.
    pub workdir: String,
    /// Who they ran as, if not as root.
    pub user: Option<String>,
    /// Who everything belongs to in the image; `None` for those it belongs to here.
    pub owner: Option<(u32, u32)>,
    /// To stop it.
    pub cancel: &'a Cancel,
}
