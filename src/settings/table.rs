//! The table of settings.

use std::path::Path;

use sandbox_macos::{Account, Isolation};

use super::place::Place;
use super::resolve::Settings;
use crate::progress::Style;
use crate::units;
use store_any::StoreUrl;
use store_rsync::Mode;

/// Names a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Which store results are kept in.
    Store,
    /// How trees get into an rsync-style store.
    RsyncMode,
    /// Whether nobody waits for the disk.
    FastSync,
    /// Where base images are looked for.
    Images,
    /// What brings images from registries.
    Fetcher,
    /// When registries are asked.
    Pull,
    /// Which image of several.
    Platform,
    /// Where layers are kept.
    Layers,
    /// Most bytes that an image may unpack to.
    MaxImageSize,
    /// Whether device nodes of images are made.
    ImageDevices,
    /// Registries that are spoken to without TLS.
    PlainHttp,
    /// Certificates of registries.
    CaFile,
    /// Docker's configuration file.
    DockerConfig,
    /// How often registries are asked again.
    Retries,
    /// Where steps are shown their trees by a FUSE filesystem.
    Fuse,
    /// Where every build sees its home.
    Home,
    /// What shows `~/local` to steps.
    Prefixes,
    /// The build user's number.
    Uid,
    /// What the build user's name begins with.
    UserPrefix,
    /// How many steps may run at once.
    Slots,
    /// How much steps are kept apart from the machine.
    Isolation,
    /// Longest time for one step.
    Timeout,
    /// Most CPU time for one step.
    MaxCpu,
    /// Most memory for one step.
    MaxMemory,
    /// Most processes for one step.
    MaxProcesses,
    /// Largest file for one step.
    MaxFileSize,
    /// Whether failed trees are kept.
    KeepFailed,
    /// How a build shows what it does.
    Progress,
    /// Most bytes a store may take.
    MaxSize,
    /// Least bytes to stay free.
    MinFree,
    /// Results unused for so long may go.
    OlderThan,
    /// Where the parts of base images come from.
    Sources,
}

/// How many values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One value.
    One,
    /// Any number of paths; in a variable they are parted by `:`.
    Paths,
    /// True or false; the bare flag means true.
    Switch,
}

/// One row of the table.
pub(crate) struct Setting {
    /// Which.
    pub(crate) key: Key,
    /// The flag without its dashes, and the key in the configuration file.
    pub(crate) name: &'static str,
    /// What stands for the value in help.
    pub(crate) value_name: &'static str,
    /// One line of help.
    pub(crate) help: &'static str,
    /// How many values.
    pub(crate) form: Form,
    /// Says what is wrong with a value.
    pub(crate) check: fn(&str) -> Result<(), String>,
    /// The value when nobody gives one, from the settings above it.
    pub(crate) default: fn(&Place, &Settings) -> Vec<String>,
}

impl Setting {
    /// The row of `key`.
    pub(crate) fn of(key: Key) -> &'static Setting {
        &SETTINGS[key as usize]
    }

    /// The environment variable that gives it.
    pub(crate) fn variable(&self) -> String {
        format!("OBUILD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// Every setting, in the order of [`Key`].
pub(crate) static SETTINGS: [Setting; 32] = [
    Setting {
        key: Key::Store,
        name: "store",
        value_name: "STORE",
        help: "Keep results in this store",
        form: Form::One,
        check: |text| StoreUrl::parse(text).map(drop),
        default: |place, _| vec![format!("rsync:{}", place.data.join("store").display())],
    },
    Setting {
        key: Key::RsyncMode,
        name: "rsync-mode",
        value_name: "MODE",
        help: "How trees get into an rsync store: auto, copy, hardlink, hardlink_unsafe or reflink",
        form: Form::One,
        check: |text| parse_mode(text).map(drop),
        default: |_, _| vec!["auto".into()],
    },
    Setting {
        key: Key::FastSync,
        name: "fast-sync",
        value_name: "BOOL",
        help: "Do not wait for the disk; after a power cut, results and caches may not be whole",
        form: Form::Switch,
        check: |text| switch(text).map(drop),
        default: |_, _| vec!["false".into()],
    },
    Setting {
        key: Key::Images,
        name: "images",
        value_name: "DIR",
        help: "Look for base images in this directory; may be given several times",
        form: Form::Paths,
        check: not_empty,
        default: |place, _| {
            let mut all = vec![place.data.join("images").display().to_string()];
            all.extend(place.homes.iter().map(|homes| homes.display().to_string()));
            all
        },
    },
    Setting {
        key: Key::Fetcher,
        name: "fetcher",
        value_name: "HOW",
        help: "Bring images from registries by obuild itself (oci), or by an installed docker",
        form: Form::One,
        check: |text| super::images::by_docker(text).map(drop),
        default: |_, _| vec!["oci".into()],
    },
    Setting {
        key: Key::Pull,
        name: "pull",
        value_name: "WHEN",
        help: "Ask registries for images that are missing, always (so that a changed tag is seen) or never",
        form: Form::One,
        check: |text| super::images::pull(text).map(drop),
        default: |_, _| vec!["missing".into()],
    },
    Setting {
        key: Key::Platform,
        name: "platform",
        value_name: "OS/ARCH",
        help: "Take the image for this platform where there are several, as linux/arm64",
        form: Form::One,
        check: |text| fetch_oci::Platform::parse(text).map(drop).map_err(|e| e.to_string()),
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::Layers,
        name: "layers",
        value_name: "DIR",
        help: "Keep the layers of images from registries here",
        form: Form::One,
        check: not_empty,
        default: |place, _| vec![place.data.join("layers").display().to_string()],
    },
    Setting {
        key: Key::MaxImageSize,
        name: "max-image-size",
        value_name: "SIZE",
        help: "Refuse images that unpack to more than this",
        form: Form::One,
        check: some_size,
        default: |_, _| vec!["64GiB".into()],
    },
    Setting {
        key: Key::ImageDevices,
        name: "image-devices",
        value_name: "BOOL",
        help: "Make the device nodes of images, which only root can; else they are left out",
        form: Form::Switch,
        check: |text| switch(text).map(drop),
        default: |_, _| vec!["false".into()],
    },
    Setting {
        key: Key::PlainHttp,
        name: "plain-http",
        value_name: "HOSTS",
        help: "Speak to these registries without TLS, as HOST or HOST:PORT, parted by commas; loopback is anyway",
        form: Form::One,
        check: not_empty,
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::CaFile,
        name: "ca-file",
        value_name: "FILE",
        help: "Trust registries by the certificates in this PEM file instead of Mozilla's",
        form: Form::One,
        check: not_empty,
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::DockerConfig,
        name: "docker-config",
        value_name: "FILE",
        help: "Take credentials for registries from this configuration file of Docker's",
        form: Form::One,
        check: not_empty,
        default: |place, _| place.docker.iter().map(|file| file.display().to_string()).collect(),
    },
    Setting {
        key: Key::Retries,
        name: "retries",
        value_name: "N",
        help: "Ask a registry again so often when it fails, waiting longer each time",
        form: Form::One,
        check: |text| match text.parse::<u8>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("`{text}` is not a number from 0 to 255")),
        },
        default: |_, _| vec!["5".into()],
    },
    Setting {
        key: Key::Fuse,
        name: "fuse",
        value_name: "DIR",
        help: "Show steps their trees by a FUSE filesystem mounted here, on the store's volume; only root can",
        form: Form::One,
        check: absolute,
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::Home,
        name: "home",
        value_name: "DIR",
        help: "Where every build sees its home, on the store's volume",
        form: Form::One,
        check: absolute,
        default: |_, settings| {
            if let Some(mount) = settings.fuse() {
                return vec![mount.join("users/builder").display().to_string()];
            }
            let root = settings.store().map(|store| store.path);
            root.map(|root| root.join("home").display().to_string()).into_iter().collect()
        },
    },
    Setting {
        key: Key::Prefixes,
        name: "prefixes",
        value_name: "DIR",
        help: "Show the home's `local` to steps at this directory, which must be there; may be given several times",
        form: Form::Paths,
        check: absolute,
        default: |place, _| vec![place.prefix.display().to_string()],
    },
    Setting {
        key: Key::Uid,
        name: "uid",
        value_name: "N",
        help: "Number of the first build user; only root uses it",
        form: Form::One,
        check: uid,
        default: |_, _| vec!["705".into()],
    },
    Setting {
        key: Key::UserPrefix,
        name: "user-prefix",
        value_name: "NAME",
        help: "What a build user's name begins with; its number follows",
        form: Form::One,
        check: user_prefix,
        default: |_, _| vec!["mac".into()],
    },
    Setting {
        key: Key::Slots,
        name: "slots",
        value_name: "N",
        help: "Run this many steps at once, each as a build user of its own; only root can",
        form: Form::One,
        check: slots,
        default: |_, _| vec!["1".into()],
    },
    Setting {
        key: Key::Isolation,
        name: "isolation",
        value_name: "HOW",
        help: "Keep steps from the machine by all that the system has (full), or by users and networks alone (users)",
        form: Form::One,
        check: |text| isolation(text).map(drop),
        default: |_, _| vec!["full".into()],
    },
    Setting {
        key: Key::Timeout,
        name: "timeout",
        value_name: "TIME",
        help: "Longest time that one step may run",
        form: Form::One,
        check: |text| units::parse_duration(text).map(drop),
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::MaxCpu,
        name: "max-cpu",
        value_name: "TIME",
        help: "Most CPU time that one step may use, of all processors together",
        form: Form::One,
        check: |text| units::parse_duration(text).map(drop),
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::MaxMemory,
        name: "max-memory",
        value_name: "SIZE",
        help: "Most memory that one step may use",
        form: Form::One,
        check: some_size,
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::MaxProcesses,
        name: "max-processes",
        value_name: "N",
        help: "Most processes and threads that one step may have at once; only for build users",
        form: Form::One,
        check: processes,
        default: |_, _| vec!["4096".into()],
    },
    Setting {
        key: Key::MaxFileSize,
        name: "max-file-size",
        value_name: "SIZE",
        help: "Largest file that one step may write",
        form: Form::One,
        check: some_size,
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::KeepFailed,
        name: "keep-failed",
        value_name: "BOOL",
        help: "Keep the tree of a failed step, for `obuild shell`",
        form: Form::Switch,
        check: |text| switch(text).map(drop),
        default: |_, _| vec!["false".into()],
    },
    Setting {
        key: Key::Progress,
        name: "progress",
        value_name: "STYLE",
        help: "Show what happens: auto, plain, tty or json",
        form: Form::One,
        check: |text| Style::parse(text).map(drop),
        default: |_, _| vec!["auto".into()],
    },
    Setting {
        key: Key::MaxSize,
        name: "max-size",
        value_name: "SIZE",
        help: "Let results and caches together take no more than this",
        form: Form::One,
        check: |text| units::parse_size(text).map(drop),
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::MinFree,
        name: "min-free",
        value_name: "SIZE",
        help: "Leave at least this much of the store's volume free",
        form: Form::One,
        check: |text| units::parse_size(text).map(drop),
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::OlderThan,
        name: "older-than",
        value_name: "TIME",
        help: "Delete what nothing has used for this long",
        form: Form::One,
        check: |text| units::parse_duration(text).map(drop),
        default: |_, _| Vec::new(),
    },
    Setting {
        key: Key::Sources,
        name: "sources",
        value_name: "FILE",
        help: "Read where the parts of base images come from in this file",
        form: Form::One,
        check: not_empty,
        default: |place, _| {
            vec![place.config.with_file_name("base-images.toml").display().to_string()]
        },
    },
];

/// Reads the value of a [`Form::Switch`].
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

/// Reads an rsync mode.
pub(crate) fn parse_mode(text: &str) -> Result<Mode, String> {
    text.parse().map_err(|error: store_rsync::UnknownMode| error.to_string())
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("an empty path names nothing".into()) } else { Ok(()) }
}

fn absolute(text: &str) -> Result<(), String> {
    match Path::new(text).is_absolute() {
        true => Ok(()),
        false => Err(format!("`{text}` is not an absolute path")),
    }
}

fn uid(text: &str) -> Result<(), String> {
    match text.parse::<u32>() {
        Ok(0) => Err("a build user must not be root (0)".into()),
        // The last number means "no change" to the kernel.
        Ok(number) if number < u32::MAX => Ok(()),
        _ => Err(format!("`{text}` is not a user number")),
    }
}

/// Reads how much steps are kept apart.
pub(crate) fn isolation(text: &str) -> Result<Isolation, String> {
    Isolation::named(text).ok_or_else(|| format!("`{text}` is neither `full` nor `users`"))
}

fn slots(text: &str) -> Result<(), String> {
    match text.parse::<u32>() {
        Ok(1..=Account::MOST) => Ok(()),
        _ => Err(format!("`{text}` is not a number from 1 to {}", Account::MOST)),
    }
}

/// Of nothing at all no step can run.
fn some_size(text: &str) -> Result<(), String> {
    match units::parse_size(text)? {
        0 => Err("a step needs more than nothing".into()),
        _ => Ok(()),
    }
}

fn processes(text: &str) -> Result<(), String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a number of processes")),
        Ok(_) => Ok(()),
    }
}

fn user_prefix(text: &str) -> Result<(), String> {
    if Account::may_begin_with(text) {
        return Ok(());
    }
    Err(format!("`{text}` cannot begin a user name: lower-case letters, digits, `_` and `-`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_its_keys() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.key as usize, at, "{}", setting.name);
        }
        assert_eq!(Setting::of(Key::RsyncMode).variable(), "OBUILD_RSYNC_MODE");
    }

    #[test]
    fn every_setting_is_documented() {
        let docs = include_str!("../../docs/settings.md");
        for setting in &SETTINGS {
            let row = format!("| `{}` | `{}` |", setting.name, setting.variable());
            assert!(docs.contains(&row), "docs/settings.md lacks {row}");
        }
    }

    #[test]
    fn values_are_checked() {
        for (key, good, bad) in [
            (Key::Store, "rsync:/a", "rsyn:/a"),
            (Key::RsyncMode, "copy", "copied"),
            (Key::Images, "images", ""),
            (Key::Fetcher, "docker", "podman"),
            (Key::Pull, "always", "sometimes"),
            (Key::Platform, "linux/arm64", "linux"),
            (Key::MaxImageSize, "5G", "0"),
            (Key::ImageDevices, "true", "some"),
            (Key::Fuse, "/homes", "homes"),
            (Key::Home, "/home", "home"),
            (Key::Prefixes, "/opt/homebrew", "homebrew"),
            (Key::Sources, "sources.toml", ""),
            (Key::Uid, "705", "0"),
            (Key::Uid, "1", "4294967295"),
            (Key::UserPrefix, "mac", "Mac"),
            (Key::Slots, "2", "0"),
            (Key::Isolation, "users", "none"),
            (Key::Timeout, "5m", "5"),
            (Key::MaxCpu, "1h30m", "1"),
            (Key::MaxMemory, "2G", "0"),
            (Key::MaxProcesses, "100", "0"),
            (Key::MaxFileSize, "1MiB", "-1"),
            (Key::KeepFailed, "yes", "maybe"),
            (Key::Progress, "json", "xml"),
            (Key::MaxSize, "5G", "big"),
            (Key::OlderThan, "7d", "week"),
        ] {
            assert_eq!((Setting::of(key).check)(good), Ok(()), "{good}");
            assert!((Setting::of(key).check)(bad).is_err(), "{bad}");
        }
    }
}
