//! `obuild doctor`
//!
//! Each file below looks at one thing; `host` is what one system alone has.

mod check;
mod clock;
mod confinement;
mod leftovers;
mod limits;
#[cfg_attr(
    not(target_os = "macos"),
    allow(dead_code, reason = "it is read everywhere, so that it can be tested everywhere")
)]
mod mac_output;
mod programs;
mod storage;
mod subject;
mod tool;
mod users;

#[cfg(target_os = "linux")]
#[path = "doctor/linux.rs"]
mod host;
#[cfg(target_os = "macos")]
#[path = "doctor/macos.rs"]
mod host;

use std::process::ExitCode;

use super::table::columns;
use crate::cli::Done;
use crate::error::CommandError;
use crate::output;
use crate::settings::{Flags, OfSteps, Settings};
use check::{Check, Status};
use subject::Subject;

/// Check this machine: what is in force, what is weak, what is missing, and what to do about it
///
/// Nothing is changed. The exit code is 3 when something would keep a build from running.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, as docs/doctor.md describes it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    /// Whether builds can run.
    healthy: bool,
    checks: &'a [Check],
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let checks = all(&Subject::new(settings)?)?;
    let broken = checks.iter().filter(|check| check.status == Status::Broken).count();
    match args.json {
        true => output::json(&Report { healthy: broken == 0, checks: &checks })?,
        false => output::print(text(&checks))?,
    }
    if broken == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CommandError::system(format!("builds cannot run here: {broken} of the checks failed")))
}

/// Every check, in the order in which a person would ask.
fn all(subject: &Subject<'_>) -> Result<Vec<Check>, CommandError> {
    let mut checks = users::checks(subject)?;
    checks.extend(leftovers::checks(subject));
    checks.extend(confinement::checks(subject));
    checks.extend(storage::checks(subject));
    checks.extend(limits::checks());
    checks.extend(clock::checks(subject));
    checks.extend(host::checks(subject));
    checks.extend(programs::checks(subject));
    Ok(checks)
}

fn text(checks: &[Check]) -> String {
    let rows = checks.iter().flat_map(|check| {
        let row = [check.status.to_string(), check.name.to_owned(), check.finding.clone()];
        let remedy = check.remedy.iter();
        let remedy = remedy.map(|text| [String::new(), String::new(), format!("→ {text}")]);
        [row].into_iter().chain(remedy)
    });
    columns(&rows.collect::<Vec<_>>())
}
