//! `obuild healthcheck`

use std::process::ExitCode;
use std::time::Duration;

use obuilder_core::cache::CacheError;
use obuilder_core::error::StoreError;
use obuilder_core::interpreter::{Builder, Context, Options, PlanState};
use obuilder_core::progress::Silent;
use obuilder_core::spec::Spec;

use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, OfSteps, Settings};
use crate::{output, session, signals, units};

const SPEC: &[u8] = b"((from scratch) (shell /bin/sh -c) (run (shell \"echo healthcheck\")))";

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
    let builder = session::builder(settings, Vec::new())?;
    let spec = Spec::parse(SPEC).map_err(|error| CommandError::from_error(Kind::System, &error))?;
    let context = Context::new(std::env::temp_dir());
    forget_last(&builder, &spec, &context)?;
    let options = Options { timeout: Some(args.within), ..Options::default() };
    let built = builder.build(&spec, &context, &options, &cancel, &Silent);
    built.map_err(|error| blame(error.into()))?;
    output::print("Healthcheck passed\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes the result of the last check, so that the step is really run.
fn forget_last(builder: &Builder, spec: &Spec, context: &Context) -> Result<(), CommandError> {
    let plan = builder.plan(spec, context)?;
    let Some(PlanState::Hit(id)) = plan.steps.last().map(|step| &step.state) else { return Ok(()) };
    match builder.cache.delete(id) {
        // Another check runs now, and this one may share its step.
        Err(CacheError::Store(StoreError::InUse(_))) => Ok(()),
        deleted => Ok(deleted.map(drop)?),
    }
}

/// No step of the user's could be at fault here.
fn blame(mut error: CommandError) -> CommandError {
    if error.kind == Kind::Step {
        error.kind = Kind::System;
    }
    error
}
