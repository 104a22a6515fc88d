//! `obuild plan`

use std::process::ExitCode;

use obuilder_core::ResultId;
use obuilder_core::interpreter::{Context, PlanState, PlanStep};

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

/// One step, for JSON.
#[derive(serde::Serialize)]
struct Row<'a> {
    stage: &'a [String],
    heading: &'a str,
    state: &'static str,
    id: Option<&'a ResultId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    /// Where a base image would come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let (spec, src_dir) = args.source.load()?;
    let mut context = Context::new(src_dir);
    context.secrets = build::secrets(&args.secrets)?;
    let plan = session::builder(settings, Vec::new())?.plan(&spec, &context)?;
    let rows: Vec<_> = plan.steps.iter().map(row).collect();
    match args.json {
        true => output::json(&rows)?,
        false => output::print(text(&rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn row(step: &PlanStep) -> Row<'_> {
    let (state, id, why) = match &step.state {
        PlanState::Context => ("context", None, None),
        PlanState::Hit(id) => ("cached", Some(id), None),
        PlanState::Miss(id) => ("build", Some(id), None),
        PlanState::Unknown(why) => ("unknown", None, Some(why.as_str())),
    };
    let origin = step.origin.as_deref();
    Row { stage: &step.stage.0, heading: &step.heading, state, id, why, origin }
}

fn text(rows: &[Row<'_>]) -> String {
    let steps: Vec<_> = rows.iter().filter(|row| row.state != "context").collect();
    let cells = steps.iter().map(|row| {
        let id = row.id.map_or("-", ResultId::short).to_owned();
        let why = row.why.or(row.origin).map(|why| format!(" ({why})")).unwrap_or_default();
        [row.state.to_owned(), id, format!("{}{why}", title(row.stage, row.heading))]
    });
    let cached = steps.iter().filter(|row| row.state == "cached").count();
    let table = columns(&cells.collect::<Vec<_>>());
    format!("{table}{} steps: {cached} cached\n", steps.len())
}
