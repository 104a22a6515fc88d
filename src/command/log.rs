//! `obuild log`

use std::io::Read;
use std::process::ExitCode;

use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, OfStore, Settings};
use crate::{output, session};

/// Print the log of a result, or of the last failure of a step
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    id: String,

    #[command(flatten)]
    flags: Flags<OfStore>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let cache = session::cache(settings)?;
    let mut log = cache.log(&cache.find(&args.id)?)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = log.file.read(&mut buffer).map_err(|error| {
            CommandError::system(format!("failed to read the log of `{}`", args.id))
                .caused_by(&error)
        })?;
        if read == 0 || !output::write(&buffer[..read])? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}
