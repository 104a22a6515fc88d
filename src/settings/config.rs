//! The configuration file.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::table::{Form, SETTINGS, Setting};
use crate::error::CommandError;
use crate::nearest::nearest;

/// The values of a configuration file, checked, each with the line it stands on.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    /// Where it was read from.
    pub(crate) path: PathBuf,
    /// Setting, line number, values.
    pub(crate) values: Vec<(&'static str, usize, Vec<String>)>,
}

impl ConfigFile {
    /// Reads `path`. A missing file is an empty one, unless the user named it (`must_exist`).
    pub(crate) fn read(path: &Path, must_exist: bool) -> Result<Self, CommandError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                Ok(Self::default())
            }
            Err(error) => {
                let message = format!("failed to read the configuration file `{}`", path.display());
                Err(CommandError::usage(message).caused_by(&error))
            }
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, CommandError> {
        let line =
            |span: Range<usize>| text[..span.start.min(text.len())].matches('\n').count() + 1;
        let at = |line: usize, what: &str| {
            CommandError::usage(format!("{}:{line}: {what}", path.display()))
        };
        let table = DeTable::parse(text)
            .map_err(|error| at(line(error.span().unwrap_or_default()), error.message()))?;
        let mut values = Vec::new();
        for (key, value) in table.get_ref() {
            let line = line(key.span());
            let name: &str = key.get_ref();
            let setting =
                SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
                    at(line, &format!("there is no setting `{name}`")).hint(suggestion(name))
                })?;
            let read = strings(setting, value.get_ref()).and_then(|all| {
                all.iter().try_for_each(|one| (setting.check)(one))?;
                Ok(all)
            });
            let read = read.map_err(|what| at(line, &format!("`{name}`: {what}")))?;
            values.push((setting.name, line, read));
        }
        Ok(Self { path: path.to_owned(), values })
    }
}

fn suggestion(name: &str) -> String {
    let names = SETTINGS.iter().map(|setting| setting.name);
    match nearest(name, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the settings are {}", names.collect::<Vec<_>>().join(", ")),
    }
}

/// The value as the text it would have on the command line.
fn strings(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match (setting.form, value) {
        (Form::Paths, DeValue::Array(all)) => {
            let each = all.iter().map(|one| string(one.get_ref()));
            each.collect::<Option<_>>().ok_or_else(|| "must hold strings".to_owned())
        }
        (Form::Paths, value) => string(value)
            .map(|one| vec![one])
            .ok_or_else(|| "must be a string, or a list of strings".to_owned()),
        (Form::Switch, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (Form::Switch, _) => Err("must be true or false".to_owned()),
        (_, value) => {
            scalar(value).map(|one| vec![one]).ok_or_else(|| "must be a string".to_owned())
        }
    }
}

fn string(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        ConfigFile::parse(Path::new("c.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn values_keep_their_lines() {
        let text =
            "# ours\nstore = 'rsync:/x'\nuid = 7_05\nimages = ['/a', '/b']\n\nkeep-failed = true\n";
        let file = ConfigFile::parse(Path::new("c.toml"), text).unwrap();
        let mut values = file.values;
        values.sort_by_key(|(_, line, _)| *line);
        let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let expected = vec![
            ("store", 2, strings(&["rsync:/x"])),
            ("uid", 3, strings(&["705"])),
            ("images", 4, strings(&["/a", "/b"])),
            ("keep-failed", 6, strings(&["true"])),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn mistakes_are_placed() {
        let expected =
            "error: c.toml:2: there is no setting `sotre`\nhint: did you mean `store`?\n";
        assert_eq!(error("uid = 7\nsotre = 'x'\n"), expected);
        assert!(error("\n\nuid = 0\n").contains("c.toml:3: `uid`: a build user must not be root"));
        assert!(error("keep-failed = 'yes'\n").contains("must be true or false"));
        assert!(error("images = [1]\n").contains("must hold strings"));
        assert!(error("images = 1\n").contains("a list of strings"));
        assert!(error("images = [1.5]\n").contains("must hold strings"));
        assert!(error("uid = 7\n[section]\n").contains("c.toml:2: there is no setting `section`"));
        assert!(
            error("uid = 7\nhome = \n").starts_with("error: c.toml:2: "),
            "{}",
            error("uid = 7\nhome = \n")
        );
    }
}
