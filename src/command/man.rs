//! `obuild man`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::{Cli, Done};
use crate::error::CommandError;
use crate::output;

/// Print the manual page, or write the pages of all commands to a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write obuild.1, obuild-build.1 and so on to this directory, which is made where it is missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Done {
    match &args.dir {
        Some(dir) => std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
            .map_err(|error| cannot_write(dir).caused_by(&error))?,
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page).map_err(|error| {
                CommandError::system("failed to write the page").caused_by(&error)
            })?;
            output::write(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(dir: &Path) -> CommandError {
    CommandError::system(format!("failed to write manual pages to `{}`", dir.display()))
}
