//! `obuild base-image list`

use std::process::ExitCode;

use base_image::{Images, Record};

use crate::cli::Done;
use crate::command::table::columns;
use crate::output;
use crate::settings::{Flags, Key, Set, Settings};

/// List the base images there are, and what is in those that were made here
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfImages>,
}

/// The settings of looking at images.
#[derive(Debug, Clone)]
pub(crate) struct OfImages;

impl Set for OfImages {
    const KEYS: &'static [Key] = &[Key::Images];
}

/// An image, for JSON.
#[derive(serde::Serialize)]
struct Row {
    name: String,
    path: String,
    /// What it was made from, if it was made here.
    made: Option<Record>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let mut rows = Vec::new();
    for dir in settings.image_dirs() {
        let images = Images::new(&dir.path);
        for (name, made) in images.list()? {
            let path = images.path(&name);
            // What is in `/Users` and not declared is somebody's home.
            let declared = dir.path.join(format!("{name}.env")).is_file();
            if declared || !dir.declared_only {
                rows.push(Row { name, path: path.display().to_string(), made });
            }
        }
    }
    match args.json {
        true => output::json(&rows)?,
        false => output::print(text(&rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no base images but `scratch`, the empty one\n".to_owned();
    }
    let row = |row: &Row| {
        let ours = |what: &dyn Fn(&Record) -> String| row.made.as_ref().map_or("-".into(), what);
        let opam = |record: &Record| {
            let opam = record.request.opam.iter().map(ToString::to_string);
            opam.collect::<Vec<_>>().join(",")
        };
        let name = match &row.made {
            Some(record) if record.request.name != row.name => {
                format!("{} -> {}", row.name, record.request.name)
            }
            _ => row.name.clone(),
        };
        let ocaml = |record: &Record| record.request.ocaml.to_string();
        [name, ours(&ocaml), ours(&opam), row.path.clone()]
    };
    let header = ["NAME", "OCAML", "OPAM", "PATH"].map(str::to_owned);
    let rows: Vec<_> = [header].into_iter().chain(rows.iter().map(row)).collect();
    columns(&rows)
}
