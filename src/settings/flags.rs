//! Settings as flags of a command.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::table::{Form, Key, SETTINGS, Setting};

/// Which settings a command uses.
pub(crate) trait Set {
    /// In the order of its help.
    const KEYS: &'static [Key];
}

/// The flags of the settings in `S`, as given on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Flags<S> {
    /// What was given.
    pub(crate) given: Vec<(Key, Vec<String>)>,
    set: PhantomData<S>,
}

impl<S: Set> clap::FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { given: collect(matches), set: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given = collect(matches);
        Ok(())
    }
}

impl<S: Set> clap::Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        command.args(S::KEYS.iter().map(|key| argument(Setting::of(*key))))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The settings given on a command line, whichever of them its command knows.
pub(crate) fn collect(matches: &ArgMatches) -> Vec<(Key, Vec<String>)> {
    let given = |setting: &Setting| {
        let values = matches.try_get_many::<String>(setting.name).ok()??;
        Some((setting.key, values.cloned().collect()))
    };
    SETTINGS.iter().filter_map(given).collect()
}

fn argument(setting: &'static Setting) -> Arg {
    let argument = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.value_name)
        .help_heading("Settings")
        .help(setting.help);
    match setting.form {
        Form::One => argument,
        Form::Paths => argument.action(ArgAction::Append),
        Form::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}
