//! `obuild healthcheck`

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use obuilder_core::interpreter::{Context, Options};
use obuilder_core::progress::Silent;
use obuilder_core::spec::Spec;

use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, OfSteps, Settings};
use crate::{output, session, signals, units};

/// Check that a trivial step can be built
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Longest time that the step may run
    #[arg(long = "within", value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    within: Duration,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    let builder = session::builder(settings)?;
    // A command that nobody has run yet, so that it is really run.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let text =
        format!("((from scratch) (shell /bin/sh -c) (run (shell \"echo healthcheck {now}\")))");
    let spec = Spec::parse(text.as_bytes())
        .map_err(|error| CommandError::from_error(Kind::System, &error))?;
    let options = Options { timeout: Some(args.within), ..Options::default() };
    let context = Context::new(std::env::temp_dir());
    match builder.build(&spec, &context, &options, &cancel, &Silent) {
        Ok(id) => {
            builder.cache.delete(&id)?;
            output::print("Healthcheck passed\n")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(blame(error.into())),
    }
}

/// No step of the user's could be at fault here.
fn blame(mut error: CommandError) -> CommandError {
    if error.kind == Kind::Step {
        error.kind = Kind::System;
    }
    error
}
