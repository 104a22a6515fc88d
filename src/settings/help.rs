//! Help that says which value is in force, and from where.

use clap::Command;

use super::resolve::Settings;
use super::table::SETTINGS;

/// Adds to the help of every setting of every subcommand the value in force and its source.
pub(crate) fn with_values_in_force(command: Command, settings: &Settings) -> Command {
    command.mut_subcommands(|mut sub| {
        for setting in &SETTINGS {
            if !sub.get_arguments().any(|arg| arg.get_id() == setting.name) {
                continue;
            }
            let (values, source) = settings.of(setting.key);
            let value = if values.is_empty() { "none".to_owned() } else { values.join(", ") };
            let variable = setting.variable();
            let text = format!("{} [{variable}] [now: {value}, from {source}]", setting.help);
            sub = sub.mut_arg(setting.name, |arg| arg.help(text.replace("from the default", "the default")));
        }
        sub
    })
}
