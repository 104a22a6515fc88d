//! `obuild doctor`

mod checks;

use std::fmt;
use std::process::ExitCode;

use console::Style;

use super::table::columns;
use crate::cli::Done;
use crate::error::CommandError;
use crate::output;
use crate::settings::{Flags, OfSteps, Settings};

/// Check this machine: what is in force, what is weak, what is missing
///
/// Nothing is changed. The exit code is 3 when something would keep a build from running.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// Builds run, with less than there could be.
    Weak,
    /// Builds cannot run.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, serde::Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    finding: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, finding: finding.into(), hint: None }
    }

    fn weak(name: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { name, status: Status::Weak, finding: finding.into(), hint }
    }

    fn broken(name: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Status::Broken, ..Self::weak(name, finding, hint) }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, style) = match self {
            Status::Ok => ("ok", Style::new().green()),
            Status::Weak => ("weak", Style::new().yellow()),
            Status::Broken => ("broken", Style::new().red()),
        };
        write!(f, "{}", style.apply_to(text))
    }
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let checks = checks::all(settings)?;
    match args.json {
        true => output::json(&checks)?,
        false => output::print(text(&checks))?,
    }
    let broken = checks.iter().filter(|check| check.status == Status::Broken).count();
    if broken == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CommandError::system(format!("builds cannot run here: {broken} of the checks failed")))
}

fn text(checks: &[Check]) -> String {
    let rows = checks.iter().flat_map(|check| {
        let row = [check.status.to_string(), check.name.to_owned(), check.finding.clone()];
        let hint =
            check.hint.iter().map(|hint| [String::new(), String::new(), format!("→ {hint}")]);
        [row].into_iter().chain(hint)
    });
    columns(&rows.collect::<Vec<_>>())
}
