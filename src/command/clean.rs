//! `obuild clean`

use std::process::ExitCode;

use super::gc;
use crate::cli::Done;
use crate::session;
use crate::settings::{Flags, OfStore, Settings};

/// Delete all results, failed steps and caches of the store
///
/// What a build is using at this moment is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags<OfStore>,
}

pub(crate) fn run(_: &Args, settings: &Settings) -> Done {
    let report = session::cache(settings)?.clean()?;
    gc::finish(&report, false, false).map(|_: ExitCode| ExitCode::SUCCESS)
}
