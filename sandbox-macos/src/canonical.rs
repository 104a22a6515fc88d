//! The canonical home where several slots share it: an empty directory at which each step is shown its own place.
//!
//! Whoever shows something there shares the lock that a single slot, which renames its trees to the home, has for itself.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use obuilder_core::Cancel;
use obuilder_core::step::Owner;

use crate::config::beside;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::lock::Lock;
use crate::slot::{Placing, Slot};

/// What a step is shown: the home, its temporary directory and its secrets.
pub(crate) const SHOWN: [&str; 3] = ["", ".tmp", ".secrets"];

/// Keeps the canonical home as it is while steps of several slots run.
pub(crate) struct Canonical {
    _lock: Lock,
}

impl Canonical {
    /// Makes the canonical home ready for steps of `slot`, and clears away what a killed single slot has left there.
    pub(crate) fn share(
        slot: &Slot,
        owner: Option<Owner>,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Self> {
        let home = slot.home.display();
        let tell = || waiting(&format!("another step uses the home `{home}`"));
        for cleared in [false, true] {
            let lock = Lock::share(&beside(&slot.home, ".lock"), cancel, tell)?;
            let occupied = make_mount_points(slot)?;
            if lock.text().is_empty() && occupied.is_none() {
                return Ok(Self { _lock: lock });
            }
            drop(lock);
            if cleared {
                return Err(Error::HomeTaken(occupied.unwrap_or_else(|| slot.home.clone())));
            }
            let (place, placing) = (slot.home.clone(), Placing::Rename);
            let alone = Slot { place, placing, ..slot.clone() };
            Home::acquire(&alone, owner, cancel, waiting)?;
        }
        unreachable!("the second round returns")
    }
}

/// Makes what is missing; gives one that is not empty, if there is one.
fn make_mount_points(slot: &Slot) -> Result<Option<PathBuf>> {
    for suffix in SHOWN {
        let path = beside(&slot.home, suffix);
        let action = || format!("make `{}`", path.display());
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(Error::io(action()))?,
        }
        let mut entries = fs::read_dir(&path).map_err(Error::io(action()))?;
        if entries.next().is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
