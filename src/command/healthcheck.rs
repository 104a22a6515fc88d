//! `obuild healthcheck`

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Done;
use crate::settings::{Flags, OfSteps, Settings};
use crate::{output, session, signals, units};

/// Check that a trivial step can be built
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Longest time it may take
    #[arg(long = "within", value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    within: Duration,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    let builder = session::builder(settings)?;
    builder.healthcheck(&cancel, args.within)?;
    output::print("Healthcheck passed\n")?;
    Ok(ExitCode::SUCCESS)
}
