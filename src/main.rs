//! The `obuild` command: runs a build script step by step in a sandbox and never does the same step twice.
//!
//! Start with [`cli`], the command line; each subcommand has its file in [`command`].
//! [`settings`] says which values are in force, [`session`] opens the store and what builds need.

#![forbid(unsafe_code)]

mod blame;
mod cli;
mod command;
mod error;
mod nearest;
mod output;
mod progress;
mod session;
mod settings;
mod signals;
mod store_url;
mod units;

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("OBUILD_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("OBUILD_LOG");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    }
    cli::run(std::env::args_os().collect())
}
