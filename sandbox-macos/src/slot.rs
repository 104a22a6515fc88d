//! A slot: one build user, and the place where its trees are while their steps run.
//!
//! Where there is one slot, its place is the canonical home itself. Where there are several, each has a place of its own in
//! `HOME.slots/` (or `MOUNT.slots/`), and every step is shown its own place at the canonical home, so that results are interchangeable.

use std::path::{Path, PathBuf};

use obuilder_core::contracts::Carry;
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
    /// How its trees get there and back.
    pub(crate) carry: Carry,
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
            carry: config.carry.clone(),
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

    /// Every slot that there is a trace of on this machine, in this home's places or in the locks, or whose user was made for this
    /// home; under the name that the system knows the user by.
    pub(crate) fn traces(&self) -> Vec<Self> {
        let places = beside(&self.home, ".slots");
        let mut uids = numbers(&places, |name| name.parse().ok());
        uids.extend(numbers(&self.lock_dir, |name| {
            name.strip_prefix("uid-")?.strip_suffix(".lock")?.parse().ok()
        }));
        uids.extend(crate::user::made_for(&self.home));
        uids.sort_unstable();
        uids.dedup();
        let slot = |uid: u32| {
            let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??.name;
            let own = places.join(uid.to_string());
            let (place, placing) = match own.is_dir() {
                true => (own.join("home"), Placing::World),
                false => (self.home.clone(), Placing::Rename),
            };
            Some(Self { user: Account { name, uid }, place, placing, ..self.clone() })
        };
        uids.into_iter().filter_map(slot).collect()
    }

    /// Whether whoever clears this slot clears all of `other`.
    pub(crate) fn has_all_of(&self, other: &Self) -> bool {
        self.user.uid == other.user.uid
            && (self.place == other.place || other.placing == Placing::Rename)
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

/// The numbers that `number` finds in the names of what is in `dir`.
fn numbers(dir: &Path, number: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect()
}
