//! One file for each subcommand.

pub(crate) mod base_image;
pub(crate) mod build;
pub(crate) mod clean;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod dockerfile;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod healthcheck;
pub(crate) mod import;
pub(crate) mod inspect;
mod json;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod plan;
pub(crate) mod serve_trees;
pub(crate) mod setup;
pub(crate) mod shell;
mod spec_file;
pub(crate) mod submit;
mod table;
mod verbosity;
