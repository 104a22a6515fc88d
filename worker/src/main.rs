//! The program `obuild-worker`: works for an OCluster scheduler.
//!
//! [`options`] is the command line and the configuration file, [`work`] puts the worker together and runs it.

#![forbid(unsafe_code)]

mod backend;
mod check;
mod options;
mod settings;
mod work;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use options::Options;

/// Work for an OCluster scheduler, building as obuild does
#[derive(Debug, Parser)]
#[command(name = "obuild-worker", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prove that a scheduler can be reached and would register this worker, and say what fails
    Check {
        /// The pool's `.cap` file
        cap: PathBuf,
        /// The name to register by
        #[arg(long, default_value = "obuild-worker-check")]
        name: String,
    },
    /// Serve the trees that build users see; obuild-worker starts this itself
    #[command(hide = true)]
    ServeTrees {
        /// Directory that says which user sees which tree
        #[arg(long)]
        scoreboard: PathBuf,
        /// A mount and what of each tree it shows
        #[arg(long, num_args = 2, required = true)]
        show: Vec<PathBuf>,
    },
}

/// What a person must be told when something cannot go on.
#[derive(Debug)]
pub(crate) struct Stop {
    text: String,
    code: u8,
}

impl Stop {
    /// The command line or the configuration is wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 2 }
    }

    /// The system or the scheduler is at fault.
    pub(crate) fn system(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 3 }
    }
}

fn main() -> ExitCode {
    // Who has started us may ignore the ends of children, and that is passed on; a signal with a handler is not ignored.
    let told = signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::default());
    told.expect("every system has this signal");
    let cli = Cli::parse();
    let done = match cli.command {
        None => work::run(cli.options),
        Some(Command::Check { cap, name }) => check::run(&cap, &name),
        Some(Command::ServeTrees { scoreboard, show }) => backend::serve_trees(&scoreboard, &show),
    };
    done.unwrap_or_else(|stop| {
        // Nothing sensible can be done when standard error is closed.
        let _ = writeln!(io::stderr(), "error: {}", stop.text);
        ExitCode::from(stop.code)
    })
}

/// Shows what the program traces on standard error, with the time, as a service's log.
pub(crate) fn trace(level: &str) {
    let filter = std::env::var("OBUILD_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = tracing_subscriber::EnvFilter::new(filter);
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_env_filter(filter)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
