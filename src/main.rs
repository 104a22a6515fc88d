//! The `obuild` command: runs a build script step by step in a sandbox and never does the same step twice.
//!
//! Start with [`cli`], the command line; each subcommand has its file in [`command`].
//! [`settings`] says which values are in force, [`session`] opens the store and what builds need.

#![forbid(unsafe_code)]

mod blame;
mod cli;
mod command;
mod error;
mod logging;
mod nearest;
mod output;
mod progress;
mod session;
mod settings;
mod signals;
mod store_url;
mod weaknesses;

use std::process::ExitCode;

// One way to write sizes and times for all programs.
use obuilder_core::units;

fn main() -> ExitCode {
    signals::wait_for_children();
    cli::run(std::env::args_os().collect())
}
