//! Where this user's data and configuration lie.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the defaults depend on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Where data goes when nothing else is said.
    pub(crate) data: PathBuf,
    /// Where the configuration file is looked for.
    pub(crate) config: PathBuf,
    /// Where base images are customary besides, among people's homes.
    pub(crate) homes: Option<PathBuf>,
    /// Docker's configuration file.
    pub(crate) docker: Option<PathBuf>,
    /// Where Homebrew lives.
    pub(crate) prefix: PathBuf,
}

/// Where Homebrew lives on Macs with Apple's processors.
const HOMEBREW: &str = "/opt/homebrew";
/// Where it lives on others.
const LOCAL: &str = "/usr/local";

impl Place {
    /// The place of the calling user.
    pub(crate) fn of_caller() -> Self {
        let mac = cfg!(target_os = "macos");
        let place = Self::of(nix::unistd::geteuid().is_root(), mac, |name| {
            std::env::var_os(name).filter(|value| !value.is_empty())
        });
        let apple_silicon = mac && cfg!(target_arch = "aarch64");
        Self { prefix: if apple_silicon { HOMEBREW } else { LOCAL }.into(), ..place }
    }

    fn of(root: bool, mac: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let homes = mac.then(|| PathBuf::from("/Users"));
        let docker = variable("DOCKER_CONFIG").map(PathBuf::from);
        let docker = docker.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
        let docker = docker.map(|dir| dir.join("config.json"));
        let prefix = PathBuf::from(LOCAL);
        if root {
            // Not below `/usr/local`, which a build user sees remapped, and without blanks, which many builds cannot bear.
            let data = if mac { "/var/db/obuild" } else { "/var/lib/obuild" };
            return Self {
                data: data.into(),
                config: "/etc/obuild/config.toml".into(),
                homes,
                docker,
                prefix,
            };
        }
        let home = variable("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let base = |name: &str, otherwise: &str| {
            variable(name).map_or_else(|| home.join(otherwise), PathBuf::from).join("obuild")
        };
        let data = match variable("XDG_DATA_HOME") {
            None if mac => home.join(".obuild"),
            _ => base("XDG_DATA_HOME", ".local/share"),
        };
        let config = base("XDG_CONFIG_HOME", ".config").join("config.toml");
        Self { data, config, homes, docker, prefix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(root: bool, mac: bool, variables: &[(&str, &str)], data: &str, config: &str) {
        let place = Place::of(root, mac, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        });
        assert_eq!(place.data, PathBuf::from(data));
        assert_eq!(place.config, PathBuf::from(config));
        assert_eq!(place.homes, mac.then(|| "/Users".into()));
        assert_eq!(place.docker, Some("/home/ann/.docker/config.json".into()));
    }

    #[test]
    fn each_user_has_a_place() {
        let home = ("HOME", "/home/ann");
        check(true, false, &[home], "/var/lib/obuild", "/etc/obuild/config.toml");
        check(true, true, &[home], "/var/db/obuild", "/etc/obuild/config.toml");
        let config = "/home/ann/.config/obuild/config.toml";
        check(false, false, &[home], "/home/ann/.local/share/obuild", config);
        check(false, true, &[home], "/home/ann/.obuild", config);
        let moved = [home, ("XDG_DATA_HOME", "/data"), ("XDG_CONFIG_HOME", "/conf")];
        check(false, false, &moved, "/data/obuild", "/conf/obuild/config.toml");
    }
}
