//! What a person may set.

use std::path::{Path, PathBuf};

/// Settings of a [`crate::BuildUserSandbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The canonical home: every step finds its tree here. Absolute, on the volume of the store, and not in use
    /// for anything else. `HOME.lock`, `HOME.tmp`, `HOME.secrets` and `HOME.aside` stand beside it.
    pub home: PathBuf,
    /// The build user's name, such as `mac705`.
    pub user_name: String,
    /// The build user's number.
    pub uid: u32,
    /// Its group; `None` for the platform's custom (a group of its own on Linux, `staff` on macOS).
    pub gid: Option<u32>,
    /// Absolute prefixes that show a part of the home to a step, such as `/usr/local` → `local`.
    pub prefixes: Vec<(PathBuf, PathBuf)>,
    /// Where locks that are good for the whole machine lie; made if missing. Used by root alone.
    pub lock_dir: PathBuf,
}

impl Config {
    /// The usual build user, `mac705`, in `home`, with `/usr/local` shown as `~/local`.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            user_name: "mac705".to_owned(),
            uid: 705,
            gid: None,
            prefixes: vec![("/usr/local".into(), "local".into())],
            lock_dir: crate::platform::LOCK_DIR.into(),
        }
    }

    /// The build user's group, chosen or by custom.
    pub fn gid(&self) -> u32 {
        self.gid.unwrap_or(crate::platform::user::default_gid(self.uid))
    }

    /// A path beside the home: its name with `suffix` appended.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.home, suffix)
    }
}

/// `path` with `suffix` appended to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
