//! `obuild delete`

use std::process::ExitCode;

use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, OfStore, Settings};
use crate::{output, session, units};

/// Delete a result, or what is kept of a failed step
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    /// Delete what stands on it, too
    #[arg(short, long)]
    recursive: bool,

    /// Delete nothing, only say what would go and how much room that would make
    #[arg(short = 'n', long)]
    dry_run: bool,

    #[command(flatten)]
    flags: Flags<OfStore>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cache = session::cache_to_make_room(settings)?;
    let ids = args.ids.iter().map(|text| cache.find(text)).collect::<Result<Vec<_>, _>>()?;
    for id in ids {
        if args.dry_run {
            for (id, size) in cache.would_delete(&id, args.recursive)? {
                output::print(format!("would delete {id} {}\n", units::size(size)))?;
            }
            continue;
        }
        let deleted = match args.recursive {
            true => cache.delete_tree(&id)?,
            false if cache.delete(&id)? => vec![id],
            false => return Err(CommandError::system(format!("`{id}` was gone already"))),
        };
        for id in deleted {
            output::print(format!("deleted {id}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
