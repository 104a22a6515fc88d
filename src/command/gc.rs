//! `obuild gc`

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use obuilder_core::cache::{GcLimits, GcReport};

use super::json::Collection;
use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, Key, Set, Settings};
use crate::{output, session, units};

/// Make room: delete what was not used for longest, until the limits are met
///
/// Limits come from the flags, the environment or the configuration file; one that is already met deletes nothing.
/// For everything that is kept, the reason is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Delete nothing, only say what would be deleted and why the rest is kept
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<Uses>,
}

/// The settings of a collection.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] =
        &[Key::MaxSize, Key::MinFree, Key::OlderThan, Key::Store, Key::RsyncMode, Key::Layers];
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let limits = GcLimits {
        max_size: settings.size(Key::MaxSize),
        min_free: settings.size(Key::MinFree),
        older_than: settings.older_than(),
        spare: None,
    };
    if limits == GcLimits::default() {
        return Err(CommandError::usage("no limit is set, so there is nothing to do").hint(
            "give --max-size, --min-free or --older-than; `obuild clean` deletes everything",
        ));
    }
    let cache = session::cache_to_make_room(settings)?;
    let scarce = match limits.min_free {
        Some(least) => cache.store().usage()?.free < least,
        None => false,
    };
    if !args.dry_run {
        free_layers(settings, if scarce { Some(Duration::ZERO) } else { limits.older_than })?;
    }
    let report = cache.gc(&limits, args.dry_run)?;
    finish(&report, args.dry_run, args.json)
}

/// Deletes the layers of registry images that were not used for this long; they can be had again.
pub(super) fn free_layers(
    settings: &Settings,
    unused_for: Option<Duration>,
) -> Result<(), CommandError> {
    let Some(unused_for) = unused_for else { return Ok(()) };
    let before = SystemTime::now().checked_sub(unused_for).unwrap_or(SystemTime::UNIX_EPOCH);
    match session::layers(settings).prune(before) {
        Ok(0) => {}
        Ok(freed) => {
            output::note("note", format!("deleted layers of images, {}", units::size(freed)))
        }
        Err(error) => return Err(CommandError::from_error(Kind::System, &error)),
    }
    Ok(())
}

/// Prints a report; an error when something would not go.
pub(crate) fn finish(report: &GcReport, dry_run: bool, json: bool) -> Done {
    match json {
        true => output::json(&Collection::from(report))?,
        false => output::print(text(report, dry_run))?,
    }
    if report.failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<_> = report.failed.iter().map(|(id, why)| format!("{id}: {why}")).collect();
    let message = format!("could not delete {} results\n{}", lines.len(), lines.join("\n"));
    Err(CommandError::system(message))
}

fn text(report: &GcReport, dry_run: bool) -> String {
    let verb = if dry_run { "would delete" } else { "deleted" };
    let deleted = report.deleted.iter().map(|(id, size)| {
        let size = units::size(*size);
        format!("{verb} {} {size}\n", id.short())
    });
    let kept = report.kept.iter().map(|(id, why)| format!("kept {}: {why}\n", id.short()));
    let caches = report.caches.iter().map(|(name, size)| {
        let size = units::size(*size);
        format!("{verb} cache {name} {size}\n")
    });
    let sizes = report.deleted.iter().map(|(_, size)| size);
    let sizes = sizes.chain(report.caches.iter().map(|(_, size)| size)).chain([&report.warm]);
    let freed = units::size(sizes.sum());
    let warm = (report.warm > 0)
        .then(|| format!("{verb} trees kept for the next step {}\n", units::size(report.warm)));
    let waiting = (report.waiting > 0).then(|| {
        let size = units::size(report.waiting);
        format!(
            "deleted before, and shared with kept trees or running steps until they go {size}\n"
        )
    });
    let (gone, caches_gone, left) = (report.deleted.len(), report.caches.len(), report.kept.len());
    let summary = format!("{verb} {gone} results and {caches_gone} caches, {freed}; kept {left}\n");
    warm.into_iter()
        .chain(waiting)
        .chain(deleted)
        .chain(caches)
        .chain(kept)
        .chain([summary])
        .collect()
}
