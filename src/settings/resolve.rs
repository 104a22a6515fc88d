//! Which value of a setting is in force, and where it comes from.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fetch_dir::ImageDir;
use sandbox_macos::{Account, Isolation, Limits};

use super::config::ConfigFile;
use super::place::Place;
use super::table::{Form, Key, SETTINGS, Setting, isolation, switch};
use crate::error::CommandError;
use crate::progress::Style;
use crate::units;
use store_any::StoreUrl;

/// Where a value comes from, the strongest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line.
    Flag,
    /// An environment variable.
    Variable(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("the command line"),
            Source::Variable(name) => write!(f, "${name}"),
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Default => f.write_str("the default"),
        }
    }
}

/// What each layer says.
pub(crate) struct Layers<'a> {
    /// The caller's place, for defaults.
    pub(crate) place: &'a Place,
    /// From the command line.
    pub(crate) flags: Vec<(Key, Vec<String>)>,
    /// Looks up an environment variable.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The configuration file.
    pub(crate) file: &'a ConfigFile,
}

/// The value of every setting.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    values: Vec<(Vec<String>, Source)>,
    homes: Option<PathBuf>,
}

impl Settings {
    /// Puts the layers on top of each other and checks every value that is in force.
    pub(crate) fn resolve(layers: &Layers<'_>) -> Result<Self, CommandError> {
        let mut settings = Self { values: Vec::new(), homes: layers.place.homes.clone() };
        for setting in &SETTINGS {
            let (values, source) = layers
                .find(setting)
                .unwrap_or_else(|| ((setting.default)(layers.place, &settings), Source::Default));
            if let Some(wrong) = values.iter().find_map(|one| (setting.check)(one).err()) {
                let from = match &source {
                    Source::Flag => format!("--{}", setting.name),
                    source => format!("`{}` (from {source})", setting.name),
                };
                return Err(CommandError::usage(format!("{from}: {wrong}")));
            }
            settings.values.push((values, source));
        }
        Ok(settings)
    }

    /// The text of the values of `key`, and where they come from.
    pub(crate) fn of(&self, key: Key) -> (&[String], &Source) {
        match self.values.get(key as usize) {
            Some((values, source)) => (values, source),
            None => (&[], &Source::Default),
        }
    }

    pub(super) fn text(&self, key: Key) -> &str {
        self.of(key).0.first().map_or("", String::as_str)
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<StoreUrl, CommandError> {
        StoreUrl::parse(self.text(Key::Store)).map_err(CommandError::usage)
    }

    /// The rsync mode.
    pub(crate) fn rsync_mode(&self) -> Result<store_rsync::Mode, CommandError> {
        super::table::parse_mode(self.text(Key::RsyncMode)).map_err(CommandError::usage)
    }

    /// Whether nobody waits for the disk.
    pub(crate) fn fast_sync(&self) -> bool {
        switch(self.text(Key::FastSync)) == Ok(true)
    }

    /// Directories of base images.
    pub(crate) fn images(&self) -> Vec<PathBuf> {
        self.of(Key::Images).0.iter().map(PathBuf::from).collect()
    }

    /// Directories of base images, and which of them hold homes too. Whoever names that directory means the images in it.
    pub(crate) fn image_dirs(&self) -> Vec<ImageDir> {
        let homes = self.homes.as_deref();
        let dir = |path: PathBuf| ImageDir { declared_only: Some(&*path) == homes, path };
        self.images().into_iter().map(dir).collect()
    }

    /// Where a FUSE filesystem shows steps their trees.
    pub(crate) fn fuse(&self) -> Option<PathBuf> {
        self.of(Key::Fuse).0.first().map(PathBuf::from)
    }

    /// The canonical home.
    pub(crate) fn home(&self) -> PathBuf {
        self.text(Key::Home).into()
    }

    /// What shows the home's `local` to steps; the first is where base images have Homebrew.
    pub(crate) fn prefixes(&self) -> Vec<PathBuf> {
        self.of(Key::Prefixes).0.iter().map(PathBuf::from).collect()
    }

    /// The file that says where the parts of base images come from.
    pub(crate) fn sources(&self) -> PathBuf {
        self.text(Key::Sources).into()
    }

    /// The build users, one for each slot.
    pub(crate) fn users(&self) -> Result<Vec<Account>, CommandError> {
        let number = |key: Key, name: &str| {
            let wrong = |_| CommandError::usage(format!("`{name}` is not a number"));
            self.text(key).parse::<u32>().map_err(wrong)
        };
        let (first, slots) = (number(Key::Uid, "uid")?, number(Key::Slots, "slots")?);
        if first.checked_add(slots).is_none() {
            return Err(CommandError::usage(format!("there are no {slots} users from {first} on")));
        }
        Ok(Account::several(self.text(Key::UserPrefix), first, slots as usize))
    }

    /// How much steps are kept apart from the machine.
    pub(crate) fn isolation(&self) -> Isolation {
        isolation(self.text(Key::Isolation)).unwrap_or_default()
    }

    /// Longest time for one step.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        units::parse_duration(self.text(Key::Timeout)).ok()
    }

    /// What one step may use.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            cpu: units::parse_duration(self.text(Key::MaxCpu)).ok(),
            memory: self.size(Key::MaxMemory),
            processes: self.text(Key::MaxProcesses).parse().unwrap_or(Limits::default().processes),
            file_size: self.size(Key::MaxFileSize),
        }
    }

    /// Whether failed trees are kept.
    pub(crate) fn keep_failed(&self) -> bool {
        switch(self.text(Key::KeepFailed)) == Ok(true)
    }

    /// How a build shows what it does.
    pub(crate) fn progress(&self) -> Style {
        Style::parse(self.text(Key::Progress)).unwrap_or(Style::Auto)
    }

    /// A size limit; `None` when nobody set it.
    pub(crate) fn size(&self, key: Key) -> Option<u64> {
        units::parse_size(self.text(key)).ok()
    }

    /// How long something must be unused to be deleted.
    pub(crate) fn older_than(&self) -> Option<Duration> {
        units::parse_duration(self.text(Key::OlderThan)).ok()
    }
}

impl Layers<'_> {
    fn find(&self, setting: &Setting) -> Option<(Vec<String>, Source)> {
        if let Some((_, values)) = self.flags.iter().find(|(key, _)| *key == setting.key) {
            return Some((values.clone(), Source::Flag));
        }
        let variable = setting.variable();
        if let Some(text) = (self.variable)(&variable).filter(|text| !text.is_empty()) {
            let values = match setting.form {
                Form::Paths => text.split(':').map(str::to_owned).collect(),
                _ => vec![text],
            };
            return Some((values, Source::Variable(variable)));
        }
        let (_, line, values) =
            self.file.values.iter().find(|(name, _, _)| *name == setting.name)?;
        Some((values.clone(), Source::File(self.file.path.clone(), *line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            data: "/data".into(),
            config: "/c.toml".into(),
            homes: Some("/Users".into()),
            docker: None,
            prefix: "/usr/local".into(),
        }
    }

    fn resolve(
        flags: &[(Key, &str)],
        variables: &[(&str, &str)],
        file: &[(&'static str, &str)],
    ) -> Result<Settings, CommandError> {
        let values = file.iter().map(|(key, value)| (*key, 7, vec![(*value).to_owned()]));
        Settings::resolve(&Layers {
            place: &place(),
            flags: flags.iter().map(|(key, value)| (*key, vec![(*value).to_owned()])).collect(),
            variable: &|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned())
            },
            file: &ConfigFile { path: "/c.toml".into(), values: values.collect() },
        })
    }

    #[test]
    fn the_strongest_layer_wins() {
        let flag = [(Key::Uid, "1")];
        let variable = [("OBUILD_UID", "2")];
        let file = [("uid", "3")];
        let uid = |settings: Settings| {
            let (values, source) = settings.of(Key::Uid);
            (values[0].clone(), source.to_string())
        };
        let of = |value: &str, source: &str| (value.to_owned(), source.to_owned());
        assert_eq!(uid(resolve(&flag, &variable, &file).unwrap()), of("1", "the command line"));
        assert_eq!(uid(resolve(&[], &variable, &file).unwrap()), of("2", "$OBUILD_UID"));
        assert_eq!(uid(resolve(&[], &[], &file).unwrap()), of("3", "/c.toml:7"));
        assert_eq!(uid(resolve(&[], &[], &[]).unwrap()), of("705", "the default"));
        assert_eq!(uid(resolve(&[], &[("OBUILD_UID", "")], &file).unwrap()).0, "3");
    }

    #[test]
    fn the_home_follows_the_store() {
        let settings = resolve(&[(Key::Store, "rsync:/other")], &[], &[]).unwrap();
        assert_eq!(settings.home(), PathBuf::from("/other/home"));
        let settings = resolve(&[], &[("OBUILD_IMAGES", "/a:/b")], &[]).unwrap();
        assert_eq!(settings.images(), [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn homes_are_fenced_whoever_names_their_directory() {
        let fenced = |settings: Settings| {
            let dirs = settings.image_dirs().into_iter();
            dirs.map(|dir| (dir.path.display().to_string(), dir.declared_only)).collect::<Vec<_>>()
        };
        let default = [("/data/images".to_owned(), false), ("/Users".to_owned(), true)];
        assert_eq!(fenced(resolve(&[], &[], &[]).unwrap()), default);
        let named = resolve(&[(Key::Images, "/Users/")], &[], &[]).unwrap();
        assert_eq!(fenced(named), [("/Users/".to_owned(), true)]);
    }

    #[test]
    fn a_bad_value_says_where_it_stands() {
        let error = resolve(&[], &[("OBUILD_UID", "x")], &[]).unwrap_err().to_string();
        assert_eq!(error, "error: `uid` (from $OBUILD_UID): `x` is not a user number\n");
        let error = resolve(&[(Key::Home, "h")], &[], &[]).unwrap_err().to_string();
        assert_eq!(error, "error: --home: `h` is not an absolute path\n");
    }
}
