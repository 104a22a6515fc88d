//! `obuild clean`

use std::process::ExitCode;
use std::time::Duration;

use super::gc;
use crate::cli::Done;
use crate::progress::title;
use crate::settings::{Flags, Key, Set, Settings};
use crate::{output, session};

/// Delete all results, failed steps and caches of the store, and the layers of images from registries
///
/// What a build is using at this moment is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags<Uses>,
}

/// The settings of a cleaning.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] = &[Key::Store, Key::RsyncMode, Key::Layers];
}

pub(crate) fn run(_: &Args, settings: &Settings) -> Done {
    let cache = session::cache_to_make_room(settings)?;
    gc::free_layers(settings, Some(Duration::ZERO))?;
    let before = cache.failures()?;
    let report = cache.clean()?;
    let left = cache.failures()?;
    for failure in before.iter().filter(|one| left.iter().all(|other| other.id != one.id)) {
        let heading = title(&[], &failure.heading);
        output::print(format!("forgot failed step {} {heading}\n", failure.id.short()))?;
    }
    gc::finish(&report, false, false).map(|_: ExitCode| ExitCode::SUCCESS)
}
