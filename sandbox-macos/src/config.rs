//! What a person may set.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use obuilder_core::contracts::Carry;

use crate::limits::Limits;
use crate::slot::Slot;

/// Settings of a [`crate::BuildUserSandbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The canonical home: every step finds its tree here. Absolute, on the volume of the store (unless trees are carried
    /// there otherwise), and not in use
    /// for anything else. `HOME.lock`, `HOME.tmp`, `HOME.secrets`, `HOME.aside` and `HOME.slots` stand beside it.
    pub home: PathBuf,
    /// The build users, one for each step that may run at once; at least one. Only root uses them.
    pub users: Vec<Account>,
    /// Their group; `None` for the platform's custom (a group of its own for each on Linux, `staff` on macOS).
    pub gid: Option<u32>,
    /// Absolute prefixes that show a part of the home to a step, such as `/usr/local` → `local`.
    pub prefixes: Vec<(PathBuf, PathBuf)>,
    /// What steps must not see, such as the store; the home may lie in it.
    pub hidden: Vec<PathBuf>,
    /// How much steps are kept apart.
    pub isolation: Isolation,
    /// Shows steps their trees by a FUSE filesystem; none for what the system has of its own. Used by root alone.
    pub fuse: Option<Fuse>,
    /// Where locks that are good for the whole machine lie; made if missing. Used by root alone.
    pub lock_dir: PathBuf,
    /// What each step may use.
    pub limits: Limits,
    /// How trees and caches get from the store to a home and back; see [`obuilder_core::Store::carry`].
    pub carry: Carry,
}

/// A mount of [`usrlocal_fs`] that shows each build user its own tree.
///
/// It is made by the first step that needs it, together with one at each remapped prefix, and stays. `MOUNT.slots`,
/// `MOUNT.scoreboard`, `MOUNT.lock` and `MOUNT.log` stand beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fuse {
    /// Where it is mounted; absolute, on the store's volume. The canonical home lies two levels below it or deeper, since at the
    /// first level `getcwd(2)` may fail on Linux.
    pub mount: PathBuf,
    /// The command that serves it. `--scoreboard DIR` and, for each mount, `--show AT SUBDIRECTORY` are added to it.
    pub server: Vec<OsString>,
}

/// Name and number of a build user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name, such as `mac705`.
    pub name: String,
    /// Its number; not 0.
    pub uid: u32,
}

/// How much steps are kept apart from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// By everything the system has: users, networks, and what a step may read and write.
    #[default]
    Full,
    /// By users and networks alone: a step may do whatever plain permissions let its user do.
    Users,
}

impl Isolation {
    /// The one that is named so; `None` if none is.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "full" => Some(Self::Full),
            "users" => Some(Self::Users),
            _ => None,
        }
    }
}

impl Config {
    /// One build user, `mac705`, in `home`, with `/usr/local` shown as `~/local`.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            users: Account::several("mac", 705, 1),
            gid: None,
            prefixes: vec![("/usr/local".into(), "local".into())],
            hidden: Vec::new(),
            isolation: Isolation::default(),
            fuse: None,
            lock_dir: crate::platform::LOCK_DIR.into(),
            limits: Limits::default(),
            carry: Carry::default(),
        }
    }

    /// The slots, one for each build user.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.users.iter().map(|user| Slot::new(self, user)).collect()
    }

    /// A path beside the canonical home: its name with `suffix` appended.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.home, suffix)
    }
}

impl Account {
    /// Most build users that one sandbox has.
    pub const MOST: u32 = 256;

    /// Whether the names of build users may begin so. Linux allows 32 characters in a user name; the number takes up to ten.
    pub fn may_begin_with(prefix: &str) -> bool {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        let begins = prefix.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        begins && prefix.chars().all(good) && prefix.len() <= 22
    }

    /// As many accounts as wanted, numbered from `first` on, each named `prefix` and its number.
    pub fn several(prefix: &str, first: u32, count: usize) -> Vec<Self> {
        (first..).take(count).map(|uid| Self { name: format!("{prefix}{uid}"), uid }).collect()
    }
}

/// `path` with `suffix` appended to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
