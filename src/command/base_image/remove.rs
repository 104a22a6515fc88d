//! `obuild base-image remove`

use std::process::ExitCode;

use super::list::OfImages;
use crate::cli::Done;
use crate::output;
use crate::settings::{Flags, Settings};

/// Remove a base image that was made here; builds that run on it keep it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name
    name: String,

    #[command(flatten)]
    flags: Flags<OfImages>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let (images, _) = super::find(settings, &args.name)?;
    let gone = images.remove(&args.name)?;
    output::print(gone.iter().map(|name| format!("removed `{name}`\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
