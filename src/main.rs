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
mod weaknesses;

use std::process::ExitCode;

// One way to write sizes and times for all programs.
use obuilder_core::units;

/// Reads `POINT:N` from `OBUILD_FAULT`: where a test wants this process killed.
#[cfg(feature = "faults")]
fn arm_fault() {
    let given = std::env::var("OBUILD_FAULT").unwrap_or_default();
    if let Some((point, passing)) = given.split_once(':') {
        obuilder_core::fault::arm(point, passing.parse().unwrap_or(1));
    }
}

fn main() -> ExitCode {
    signals::wait_for_children();
    #[cfg(feature = "faults")]
    arm_fault();
    cli::run(std::env::args_os().collect())
}
