//! The program `obuild-worker`: works for an OCluster scheduler.
//!
//! [`options`] is the command line and the configuration file, [`work`] puts the worker together and runs it, [`operate`] has the
//! system run it.

#![forbid(unsafe_code)]

mod backend;
mod check;
mod doctor;
mod operate;
mod options;
mod settings;
mod steps;
mod values;
mod work;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use check::Question;
use obuild_worker::log_file::LogFile;
use obuild_worker::service::Deed;
use operate::{Install, Which};
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
    Check(Question),
    /// Look at this machine with the worker's options: what is in force, weak or missing
    Doctor(Box<Options>),
    /// Have the system run a worker with the options after `--`, now and after each of its starts
    Install(Install),
    /// Let the jobs of the installed worker end, and have the system run it no more
    Uninstall(Which),
    /// Start the installed worker
    Start(Which),
    /// Let the jobs of the installed worker end, and stop it
    Stop(Which),
    /// Say how the installed worker is
    Status(Which),
    /// Show what the installed worker has said
    Logs {
        #[command(flatten)]
        which: Which,
        /// Number of lines
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        lines: u32,
        /// Go on with what it says
        #[arg(short, long)]
        follow: bool,
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
        Some(Command::Check(question)) => check::run(&question),
        Some(Command::Doctor(options)) => doctor::show(*options),
        Some(Command::Install(args)) => operate::install(&args),
        Some(Command::Uninstall(which)) => operate::uninstall(&which),
        Some(Command::Start(which)) => operate::operate(&which, Deed::Start),
        Some(Command::Stop(which)) => operate::operate(&which, Deed::Stop),
        Some(Command::Status(which)) => operate::operate(&which, Deed::Status),
        Some(Command::Logs { which, lines, follow }) => {
            operate::operate(&which, Deed::Logs { lines, follow })
        }
        Some(Command::ServeTrees { scoreboard, show }) => backend::serve_trees(&scoreboard, &show),
    };
    done.unwrap_or_else(|stop| {
        // Nothing sensible can be done when standard error is closed.
        let _ = writeln!(io::stderr(), "error: {}", stop.text);
        ExitCode::from(stop.code)
    })
}

/// Prints a line.
pub(crate) fn say(text: &str) {
    // A reader that has gone away is no reason to stop.
    let _ = writeln!(io::stdout(), "{text}");
}

/// The variables of these names that the environment has.
pub(crate) fn given(names: &[&str]) -> Vec<(OsString, OsString)> {
    let with_value = |name: &&str| Some(((*name).into(), std::env::var_os(name)?));
    names.iter().filter_map(with_value).collect()
}

/// Shows what the program traces on standard error, or writes it to `file`, with the time, as a service's log.
pub(crate) fn trace(level: &str, file: Option<LogFile>) {
    let filter = std::env::var("OBUILD_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let shown = tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter);
    match file {
        None => shown.with_writer(io::stderr).init(),
        Some(file) => shown.with_writer(std::sync::Mutex::new(file)).init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
