//! How much OBuilder's flags want to hear, and in which colours.

use clap::{ArgAction, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

/// What OBuilder takes for its log.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Messages")]
pub(crate) struct Verbosity {
    /// Tell more on standard error; twice tells everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Of what goes on inside, tell errors only
    #[arg(short, long)]
    quiet: bool,

    /// Tell this much on standard error, whatever -v and -q say
    #[arg(long, value_name = "LEVEL", value_enum)]
    verbosity: Option<Level>,

    /// Use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: When,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// Nothing but what ends the command
    Quiet,
    /// Errors
    Error,
    /// Warnings, too
    Warning,
    /// What is usual, too
    #[value(alias = "app")]
    Info,
    /// Everything
    Debug,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum When {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Verbosity {
    /// How much of what the libraries trace is shown.
    pub(crate) fn level(&self) -> LevelFilter {
        match (self.verbosity, self.quiet, self.verbose) {
            (Some(Level::Quiet), ..) => LevelFilter::OFF,
            (Some(Level::Error), ..) | (None, true, _) => LevelFilter::ERROR,
            (Some(Level::Warning), ..) | (None, false, 0) => LevelFilter::WARN,
            (Some(Level::Info), ..) | (None, false, 1) => LevelFilter::INFO,
            (Some(Level::Debug), ..) | (None, false, _) => LevelFilter::DEBUG,
        }
    }

    /// Switches colours on or off.
    pub(crate) fn colour(&self) {
        let on = match self.color {
            When::Auto => return,
            When::Always => true,
            When::Never => false,
        };
        console::set_colors_enabled(on);
        console::set_colors_enabled_stderr(on);
    }
}
