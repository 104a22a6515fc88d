//! `obuild ls`

use std::process::ExitCode;

use obuilder_core::cache::{Entry, Failure};

use super::json::ResultFacts;
use super::table::columns;
use crate::cli::Done;
use crate::progress::title;
use crate::settings::{Flags, OfStore, Settings};
use crate::{output, session, units};

/// List results and failed steps, what was used or failed last first
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

struct Listing {
    results: Option<Vec<Entry>>,
    failures: Vec<Failure>,
}

/// A listing, for JSON.
#[derive(serde::Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<ResultFacts<'a>>>,
    failures: &'a [Failure],
}

impl<'a> From<&'a Listing> for Json<'a> {
    fn from(listing: &'a Listing) -> Self {
        let results = listing.results.as_ref();
        let results = results.map(|all| all.iter().map(ResultFacts::from).collect());
        Self { results, failures: &listing.failures }
    }
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cache = session::cache(settings)?;
    let results = if args.failed { None } else { Some(cache.entries()?) };
    let listing = Listing { results, failures: cache.failures()? };
    match args.json {
        true => output::json(&Json::from(&listing))?,
        false => output::print(text(&listing))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(listing: &Listing) -> String {
    let header = ["ID", "USED (UTC)", "CHILDREN", "TIME", "STEP"].map(str::to_owned);
    let failures = listing.failures.iter().map(failure);
    let results = listing.results.iter().flatten().map(result);
    let mut rows: Vec<_> = failures.chain(results).collect();
    if rows.is_empty() {
        return "nothing here yet\n".to_owned();
    }
    // Each kind is in order already, and times sort as text.
    rows.sort_by(|[_, one, ..], [_, other, ..]| other.cmp(one));
    rows.insert(0, header);
    columns(&rows)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use obuilder_core::ResultId;

    use super::*;

    #[test]
    fn what_was_last_comes_first() {
        let id = ResultId::of(b"x");
        let result = |used: &str| Entry {
            id: id.clone(),
            created: used.to_owned(),
            used: used.to_owned(),
            children: 0,
            parent: None,
            heading: None,
            elapsed: None,
        };
        let failure = Failure {
            id: id.clone(),
            at: "2026-01-02 00:00:00".to_owned(),
            heading: "/: (run …)".to_owned(),
            reason: "exit status 1".to_owned(),
            kept: false,
            log: PathBuf::new(),
        };
        let results = vec![result("2026-01-03 00:00:00"), result("2026-01-01 00:00:00")];
        let text = text(&Listing { results: Some(results), failures: vec![failure] });
        let days: Vec<_> =
            text.lines().skip(1).filter_map(|line| line.split("2026-01-").nth(1)).collect();
        assert!(days[0].starts_with("03") && days[1].starts_with("02"), "{text}");
        assert!(days[1].contains("failed") && days[2].starts_with("01"), "{text}");
    }
}
