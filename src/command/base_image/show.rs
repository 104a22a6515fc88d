//! `obuild base-image show`

use std::process::ExitCode;

use base_image::{Record, Source};

use super::list::OfImages;
use crate::cli::Done;
use crate::command::table::columns;
use crate::output;
use crate::settings::{Flags, Settings};

/// Show what a base image was made from
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name
    name: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfImages>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let (images, record) = super::find(settings, &args.name)?;
    match args.json {
        true => output::json(&record)?,
        false => {
            let path = images.path(&args.name).display().to_string();
            output::print(text(&record, path))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(record: &Record, path: String) -> String {
    let request = &record.request;
    let opam: Vec<_> = request.opam.iter().map(ToString::to_string).collect();
    let opam = format!("{}; `opam` is {}", opam.join(", "), request.default_opam);
    let line = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        line("name", request.name.clone()),
        line("path", path),
        line("ocaml", request.ocaml.to_string()),
        line("opam", opam),
        line("homebrew", request.prefix.display().to_string()),
        line("home", record.home.display().to_string()),
        line("result", record.result.clone()),
    ];
    for (part, source) in &record.sources {
        let (url, digest) = match source {
            Source::Url { url, sha256: Some(digest) } => (url, format!(" sha256 {digest}")),
            Source::Url { url, sha256: None } => (url, String::new()),
            Source::Git { git, commit } => (git, format!(" commit {commit}")),
        };
        rows.push(line("source", format!("{part}: {url}{digest}")));
    }
    columns(&rows)
}
