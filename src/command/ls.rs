//! `obuild ls`

use std::process::ExitCode;

use obuilder_core::cache::{Entry, Failure};

use super::table::columns;
use crate::cli::Done;
use crate::progress::title;
use crate::settings::{Flags, OfStore, Settings};
use crate::{output, session, units};

/// List results and failed steps, the last used first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the failed steps
    #[arg(long)]
    failed: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfStore>,
}

#[derive(serde::Serialize)]
struct Listing {
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<Entry>>,
    failures: Vec<Failure>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cache = session::cache(settings)?;
    let results = if args.failed { None } else { Some(cache.entries()?) };
    let listing = Listing { results, failures: cache.failures()? };
    match args.json {
        true => output::json(&listing)?,
        false => output::print(text(&listing))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(listing: &Listing) -> String {
    let header = ["ID", "USED (UTC)", "CHILDREN", "TIME", "STEP"].map(str::to_owned);
    let failures = listing.failures.iter().map(failure);
    let results = listing.results.iter().flatten().map(result);
    let rows: Vec<_> = [header].into_iter().chain(failures).chain(results).collect();
    if rows.len() == 1 { "nothing here yet\n".to_owned() } else { columns(&rows) }
}

fn result(entry: &Entry) -> [String; 5] {
    let time = entry.elapsed.map_or_else(|| "-".to_owned(), units::duration);
    let heading = entry.heading.as_deref().unwrap_or("-");
    [
        entry.id.short().to_owned(),
        entry.used.clone(),
        entry.children.to_string(),
        time,
        title(&[], heading),
    ]
}

fn failure(failure: &Failure) -> [String; 5] {
    let kept = if failure.kept { "failed, kept" } else { "failed" };
    [
        failure.id.short().to_owned(),
        failure.at.clone(),
        "-".to_owned(),
        kept.to_owned(),
        title(&[], &failure.heading),
    ]
}
