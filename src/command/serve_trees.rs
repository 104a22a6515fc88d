//! `obuild serve-trees`: the process behind `--fuse`, started by the first step that needs it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::Done;
use crate::error::CommandError;

/// Serve the filesystem behind `--fuse` (obuild starts this by itself)
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// The directory of links from a user's number to its tree
    #[arg(long, value_name = "DIR")]
    scoreboard: PathBuf,
    /// Where to mount, and which part of a tree is seen there; may be given several times
    #[arg(long, num_args = 2, value_names = ["AT", "PART"], required = true)]
    show: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Done {
    let shows: Vec<_> =
        args.show.chunks(2).map(|show| (show[0].clone(), show[1].clone())).collect();
    sandbox_macos::serve_trees(&args.scoreboard, &shows)
        .map_err(|error| CommandError::system("the trees cannot be served").caused_by(&error))?;
    Ok(ExitCode::SUCCESS)
}
