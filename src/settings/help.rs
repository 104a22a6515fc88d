//! Help that says which value is in force, and from where.

use clap::{Arg, Command};

use super::resolve::{Settings, Source};
use super::table::{SETTINGS, Setting};

/// Adds to the help of every setting of every subcommand its variable, the value in force and where that comes from.
pub(crate) fn with_values_in_force(command: Command, settings: &Settings) -> Command {
    let explain = |arg: Arg| match SETTINGS.iter().find(|setting| arg.get_id() == setting.name) {
        Some(setting) => arg.help(text(setting, settings)),
        None => arg,
    };
    command
        .mut_subcommands(|sub| sub.mut_args(explain).mut_subcommands(|sub| sub.mut_args(explain)))
}

fn text(setting: &Setting, settings: &Settings) -> String {
    let (values, source) = settings.of(setting.key);
    let value = if values.is_empty() { "none".to_owned() } else { values.join(", ") };
    let now = match source {
        Source::Default => format!("{value}, the default"),
        source => format!("{value}, from {source}"),
    };
    format!("{} [{}] [now: {now}]", setting.help, setting.variable())
}
