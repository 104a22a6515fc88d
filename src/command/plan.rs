//! `obuild plan`

use std::process::ExitCode;

use obuilder_core::interpreter::{Context, Plan, PlanState, PlanStep};

use super::build;
use super::spec_file::Source;
use super::table::columns;
use crate::cli::Done;
use crate::progress::title;
use crate::settings::{Flags, OfSteps, Settings};
use crate::{output, session};

/// Show what a build would do: each step's id, and whether it is in the cache
///
/// Nothing is run and nothing is changed. The ids after a copy from a nested build that is not in the cache
/// cannot be known before that build has run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,

    /// Give the spec this secret, read from a file; its value is part of a step's id
    #[arg(long = "secret", value_name = "ID:FILE")]
    secrets: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let (spec, src_dir) = args.source.load()?;
    let mut context = Context::new(src_dir);
    context.secrets = build::secrets(&args.secrets)?;
    let plan = session::builder(settings)?.plan(&spec, &context)?;
    match args.json {
        true => output::json(&plan)?,
        false => output::print(text(&plan))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(plan: &Plan) -> String {
    let steps = plan.steps.iter().filter(|step| step.is_step);
    let rows: Vec<_> = steps.clone().map(row).collect();
    let count = |wanted: fn(&PlanState) -> bool| steps.clone().filter(|s| wanted(&s.state)).count();
    let hits = count(|state| matches!(state, PlanState::Hit));
    format!("{}{} steps: {hits} in the cache\n", columns(&rows), rows.len())
}

fn row(step: &PlanStep) -> [String; 3] {
    let state = match &step.state {
        PlanState::Hit => "cached".to_owned(),
        PlanState::Miss => "to build".to_owned(),
        PlanState::Unknown(_) => "unknown".to_owned(),
    };
    let id = step.id.as_ref().map_or("-", |id| id.short()).to_owned();
    let heading = title(&step.stage.0, &step.heading);
    let why = match &step.state {
        PlanState::Unknown(why) => format!("{heading} ({why})"),
        _ => heading,
    };
    [state, id, why]
}
