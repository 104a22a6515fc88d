//! Every setting, from one table: its flag, its variable, its key in the configuration file, its default.
//!
//! A setting `NAME` is given as `--NAME`, else as `OBUILD_NAME`, else as `NAME = …` in the configuration file.

mod config;
mod flags;
mod help;
mod images;
mod place;
mod resolve;
mod sets;
mod table;

pub(crate) use config::ConfigFile;
pub(crate) use flags::{Flags, Set, collect};
pub(crate) use help::with_values_in_force;
pub(crate) use place::Place;
pub(crate) use resolve::{Layers, Settings, Source};
pub(crate) use sets::{OfSteps, OfStore};
pub(crate) use table::Key;
