//! A slot: one build user, and the place where its trees are while their steps run.
//!
//! Where there is one slot, its place is the canonical home itself. Where there are several, each has a place of its own in
//! `HOME.slots/` (or `MOUNT.slots/`), and every step is shown its own place at the canonical home, so that results are interchangeable.

use std::path::PathBuf;

use obuilder_core::step::Owner;

use crate::config::{Account, Config, beside};

/// How a tree in a slot's place comes to be at the canonical home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placing {
    /// The place is the canonical home.
    Rename,
    /// The step's own view of the filesystem shows it there.
    World,
    /// A FUSE filesystem shows it there to the slot's user.
    Fuse,
}

/// One build user and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The build user.
    pub(crate) user: Account,
    /// Its group, if somebody has chosen one.
    pub(crate) chosen_gid: Option<u32>,
    /// The canonical home: what steps see.
    pub(crate) home: PathBuf,
    /// Where its trees are placed; steps of other slots cannot come here.
    pub(crate) place: PathBuf,
    /// How they come to be at the canonical home from there.
    pub(crate) placing: Placing,
    /// Numbers of all slots' users: what any of them owns at the home is ours.
    pub(crate) uids: Vec<u32>,
    /// Where the locks of the machine's build users lie.
    pub(crate) lock_dir: PathBuf,
}

impl Slot {
    /// The slot of `user`, one of the users of `config`.
    pub(crate) fn new(config: &Config, user: &Account) -> Self {
        let uid = user.uid.to_string();
        let (place, placing) = match (&config.fuse, config.users.len()) {
            (Some(fuse), _) => {
                let below = config.home.strip_prefix(&fuse.mount).unwrap_or(&config.home);
                (beside(&fuse.mount, ".slots").join(uid).join(below), Placing::Fuse)
            }
            (None, 0 | 1) => (config.home.clone(), Placing::Rename),
            (None, _) => (config.beside(".slots").join(uid).join("home"), Placing::World),
        };
        Self {
            placing,
            user: user.clone(),
            chosen_gid: config.gid,
            home: config.home.clone(),
            place,
            uids: config.users.iter().map(|user| user.uid).collect(),
            lock_dir: config.lock_dir.clone(),
        }
    }

    /// Where the calling user's steps run: there is but one such place.
    pub(crate) fn callers(config: &Config) -> Self {
        let placing = Placing::Rename;
        Self { place: config.home.clone(), placing, ..Self::new(config, &config.users[0]) }
    }

    /// The user's number and group.
    pub(crate) fn owner(&self) -> Owner {
        let uid = self.user.uid;
        let gid = self.chosen_gid.unwrap_or(crate::platform::user::default_gid(uid));
        Owner { uid, gid }
    }

    /// Every slot that has ever had a place of its own at this home, under the name that the system knows its user by.
    pub(crate) fn former(&self) -> Vec<Self> {
        let places = beside(&self.home, ".slots");
        let entries = std::fs::read_dir(&places).into_iter().flatten().flatten();
        let slot = |entry: std::fs::DirEntry| {
            let uid = entry.file_name().to_str()?.parse().ok()?;
            let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??.name;
            let (place, placing) = (entry.path().join("home"), Placing::World);
            Some(Self { user: Account { name, uid }, place, placing, ..self.clone() })
        };
        entries.filter_map(slot).collect()
    }

    /// Whether a step has left something at the place.
    pub(crate) fn is_occupied(&self) -> bool {
        ["", ".tmp"].iter().any(|suffix| self.beside(suffix).symlink_metadata().is_ok())
    }

    /// A path beside the place: its name with `suffix` appended.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.place, suffix)
    }

    /// The file that is locked while the user is in use, by any process of the machine.
    pub(crate) fn lock_path(&self) -> PathBuf {
        self.lock_dir.join(format!("uid-{}.lock", self.user.uid))
    }
}
