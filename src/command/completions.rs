//! `obuild completions`

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, Done};
use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For bash: obuild completions bash > ~/.local/share/bash-completion/completions/obuild"
)]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "obuild", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}
