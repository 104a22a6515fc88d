//! `obuild inspect`

use std::path::PathBuf;
use std::process::ExitCode;

use obuilder_core::ResultId;
use obuilder_core::cache::meta::{Meta, MetaBase};
use obuilder_core::cache::{Entry, Failure, ResultCache};
use serde::{Serialize, Serializer};

use super::json::ResultFacts;
use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, OfStore, Settings};
use crate::{output, session, units};

/// Show everything that is known of a result or a failed step
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    id: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfStore>,
}

#[derive(serde::Serialize)]
struct Facts {
    id: ResultId,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_facts")]
    result: Option<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// Bytes that deleting it would free.
    size: u64,
    /// The image it was imported from, for a base image.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<MetaBase>,
    /// Where its tree is, if it has one.
    tree: Option<PathBuf>,
    /// From the result up to its base.
    ancestors: Vec<ResultId>,
    children: Vec<ResultId>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cache = session::cache(settings)?;
    let facts = facts(&cache, cache.find(&args.id)?)?;
    match args.json {
        true => output::json(&facts)?,
        false => output::print(text(&facts))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(cache: &ResultCache, id: ResultId) -> Result<Facts, CommandError> {
    let entries = cache.entries()?;
    let find = |id: &ResultId| entries.iter().find(|entry| entry.id == *id);
    let failure = cache.failures()?.into_iter().find(|failure| failure.id == id);
    let result = find(&id).cloned();
    let snapshot = match cache.store().result(&id)? {
        None => cache.store().kept(&id)?,
        there => there,
    };
    let mut ancestors = Vec::new();
    let mut next = result.as_ref().and_then(|entry| entry.parent.clone());
    while let Some(parent) = next {
        next = find(&parent).and_then(|entry| entry.parent.clone());
        ancestors.push(parent);
    }
    let children = entries.iter().filter(|entry| entry.parent.as_ref() == Some(&id));
    let children = children.map(|entry| entry.id.clone()).collect();
    let size = if snapshot.is_some() { cache.store().size(&id)? } else { 0 };
    let image = snapshot.as_ref().and_then(|snapshot| Meta::read(snapshot.dir())?.base);
    let tree = snapshot.map(|snapshot| snapshot.rootfs());
    Ok(Facts { id, result, failure, size, image, tree, ancestors, children })
}

fn as_facts<S: Serializer>(result: &Option<Entry>, serializer: S) -> Result<S::Ok, S::Error> {
    result.as_ref().map(ResultFacts::from).serialize(serializer)
}

fn text(facts: &Facts) -> String {
    let mut lines = vec![("id", facts.id.to_string())];
    if let Some(entry) = &facts.result {
        let heading = entry.heading.clone().unwrap_or_else(|| "unknown".to_owned());
        lines.push(("step", heading));
        lines.push(("created", format!("{} UTC", entry.created)));
        lines.push(("used", format!("{} UTC", entry.used)));
        lines.extend(entry.elapsed.map(|time| ("took", units::duration(time))));
    }
    if let Some(failure) = &facts.failure {
        lines.push(("step", failure.heading.clone()));
        lines.push(("failed", format!("{} UTC: {}", failure.at, failure.reason)));
        let kept = if failure.kept { "kept" } else { "not kept" };
        lines.push(("failed tree", kept.to_owned()));
        lines.push(("log", failure.log.display().to_string()));
    }
    if let Some(image) = &facts.image {
        lines.push(("image", image.origin.clone().unwrap_or_else(|| image.name.clone())));
        lines.push(("digest", image.digest.clone()));
    }
    lines.extend(facts.tree.iter().map(|tree| ("tree", tree.display().to_string())));
    lines.push(("size", units::size(facts.size)));
    lines.extend(facts.ancestors.iter().map(|id| ("stands on", id.to_string())));
    lines.extend(facts.children.iter().map(|id| ("carries", id.to_string())));
    let line = |(label, text): (&str, String)| {
        format!("{label:<12}{}\n", text.replace('\n', &format!("\n{:12}", "")))
    };
    lines.into_iter().map(line).collect()
}
