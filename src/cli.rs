//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::error::{CommandError, EXIT_CODES};
use crate::settings::{
    ConfigFile, Key, Layers, Place, Settings, Source, collect, with_values_in_force,
};
use crate::{command, logging, output};

/// Run a build script step by step in a sandbox and never do the same step twice
#[derive(Debug, Parser)]
#[command(name = "obuild", version, propagate_version = true, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Read this configuration file instead of the usual one (OBUILD_CONFIG)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(command::build::Args),
    Plan(command::plan::Args),
    Ls(command::ls::Args),
    Log(command::log::Args),
    Inspect(command::inspect::Args),
    Shell(command::shell::Args),
    Export(command::export::Args),
    Import(command::import::Args),
    Delete(command::delete::Args),
    Gc(command::gc::Args),
    Clean(command::clean::Args),
    Fsck(command::fsck::Args),
    Dockerfile(command::dockerfile::Args),
    Healthcheck(command::healthcheck::Args),
    Setup(command::setup::Args),
    BaseImage(command::base_image::Args),
    ServeTrees(command::serve_trees::Args),
    Doctor(command::doctor::Args),
    Completions(command::completions::Args),
    Submit(command::submit::Args),
    Cluster(command::cluster::Args),
    Man(command::man::Args),
}

/// What a command ends with.
pub(crate) type Done = Result<ExitCode, CommandError>;

/// Runs the command line `args`, the program's name first.
pub(crate) fn run(args: Vec<OsString>) -> ExitCode {
    let parsed = Cli::command()
        .try_get_matches_from(&args)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, collect_deep(&matches))));
    let result = match parsed {
        Ok((cli, given)) => cli.run(given),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return help(args),
        Err(error) => {
            let printed = error.print();
            // Nothing sensible can be done when standard error is closed.
            if !error.use_stderr()
                && let Err(failed) = output::heard(printed)
            {
                return failed.report();
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    result.unwrap_or_else(|error| error.report())
}

impl Cli {
    fn run(self, given: Vec<(Key, Vec<String>)>) -> Done {
        logging::start(match &self.command {
            Command::Build(args) => args.verbosity.level(),
            _ => LevelFilter::WARN,
        });
        let settings = || resolve(self.config.clone(), given).and_then(placed);
        match self.command {
            Command::Build(args) => command::build::run(args, &settings()?),
            Command::Plan(args) => command::plan::run(&args, &settings()?),
            Command::Ls(args) => command::ls::run(&args, &settings()?),
            Command::Log(args) => command::log::run(&args, &settings()?),
            Command::Inspect(args) => command::inspect::run(&args, &settings()?),
            Command::Shell(args) => command::shell::run(args, &settings()?),
            Command::Export(args) => command::export::run(&args, &settings()?),
            Command::Import(args) => command::import::run(&args, &settings()?),
            Command::Delete(args) => command::delete::run(&args, &settings()?),
            Command::Gc(args) => command::gc::run(&args, &settings()?),
            Command::Clean(args) => command::clean::run(&args, &settings()?),
            Command::Fsck(args) => command::fsck::run(&args, &settings()?),
            Command::Dockerfile(args) => command::dockerfile::run(&args),
            Command::Healthcheck(args) => command::healthcheck::run(&args, &settings()?),
            Command::ServeTrees(args) => command::serve_trees::run(&args),
            Command::Setup(args) => command::setup::run(&args, &settings()?),
            Command::BaseImage(args) => command::base_image::run(args, &settings()?),
            Command::Doctor(args) => command::doctor::run(&args, &settings()?),
            Command::Completions(args) => command::completions::run(&args),
            Command::Submit(args) => command::submit::run(&args),
            Command::Cluster(args) => command::cluster::run(&args),
            Command::Man(args) => command::man::run(&args),
        }
    }
}

/// The settings given to the innermost command, which is the one that is meant.
fn collect_deep(matches: &ArgMatches) -> Vec<(Key, Vec<String>)> {
    match matches.subcommand() {
        Some((_, sub)) => collect_deep(sub),
        None => collect(matches),
    }
}

/// Reads the configuration file and the environment beneath what the command line gave.
fn resolve(
    config: Option<PathBuf>,
    given: Vec<(Key, Vec<String>)>,
) -> Result<Settings, CommandError> {
    let place = Place::of_caller();
    let named = config.or_else(|| {
        std::env::var_os("OBUILD_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    let file = match named {
        Some(path) => ConfigFile::read(&path, true)?,
        None => ConfigFile::read(&place.config, false)?,
    };
    let variable = |name: &str| std::env::var(name).ok();
    Settings::resolve(&Layers { place: &place, flags: given, variable: &variable, file: &file })
}

/// Refuses settings whose default place would be below a home that nobody knows.
fn placed(settings: Settings) -> Result<Settings, CommandError> {
    let missing = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let usual = *settings.of(Key::Store).1 == Source::Default;
    let root = nix::unistd::geteuid().is_root();
    if usual && !root && missing("HOME") && missing("XDG_DATA_HOME") {
        return Err(CommandError::usage("HOME is not set, so the store has no usual place")
            .hint("set HOME, or name a store: `--store rsync:/path`"));
    }
    Ok(settings)
}

/// Shows help with the values that are in force on this command line.
fn help(args: Vec<OsString>) -> ExitCode {
    let asks = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "help";
    let others = args.iter().filter(|arg| !asks(arg));
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(others).ok();
    let config = matches.as_ref().and_then(|all| all.get_one::<PathBuf>("config").cloned());
    let given = matches.as_ref().map(collect_deep).unwrap_or_default();
    let (command, broken) = match resolve(config, given) {
        Ok(settings) => (with_values_in_force(Cli::command(), &settings), None),
        Err(error) => (Cli::command(), Some(error)),
    };
    if let Err(help) = command.try_get_matches_from(args)
        && let Err(failed) = output::heard(help.print())
    {
        return failed.report();
    }
    broken.map_or(ExitCode::SUCCESS, |error| error.report())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
