//! `obuild doctor`

use std::process::ExitCode;

use crate::cli::Done;
use crate::settings::{Flags, OfSteps, Settings};

/// Check this machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let _ = (args.json, settings);
    Ok(ExitCode::SUCCESS)
}
