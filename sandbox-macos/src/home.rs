//! The canonical home: a tree takes its place for the time of a step.
//!
//! ```text
//! HOME           the tree of the running step; absent between steps
//! HOME.lock      held while HOME is in use; names the tree's inode meanwhile
//! HOME.tmp/      the step's TMPDIR; stands for as long as HOME may be there
//! HOME.secrets/  the step's secrets
//! HOME.aside/    what stood where a cache or a secret was placed
//! HOME.stuck-N   what could not be removed
//! ```
//!
//! The order matters after a power cut, which may take the lock's text: HOME.tmp is made before the tree comes and removed
//! after it has gone, so a build user's HOME beside a build user's HOME.tmp was left by a step.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use obuilder_core::Cancel;
use obuilder_core::step::Owner;

use crate::canonical::Canonical;
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::mounts::{Mounts, Wanted};
use crate::slot::{Placing, Slot};
use crate::{stuck, tree};

/// A canonical home that nobody else uses now, and that nothing is left in.
pub(crate) struct Home<'a> {
    slot: &'a Slot,
    lock: Lock,
    /// Where the step is shown the tree, if that is elsewhere.
    _canonical: Option<Canonical>,
}

impl<'a> Home<'a> {
    /// Waits for the home and clears away what a killed process left there.
    pub(crate) fn acquire(
        slot: &'a Slot,
        owner: Option<Owner>,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Self> {
        let parent = |path: &'a Path| path.parent().unwrap_or(path);
        let canonical = match slot.placing {
            Placing::Rename => make_parents(parent(&slot.home), 0o755).map(|()| None)?,
            Placing::World => {
                make_parents(parent(&slot.home), 0o755)?;
                make_parents(parent(&slot.place), 0o700)?;
                Some(Canonical::share(slot, owner, cancel, waiting)?)
            }
            Placing::Fuse => make_parents(parent(&slot.place), 0o755).map(|()| None)?,
        };
        let place = slot.place.display();
        let tell = || waiting(&format!("another step uses the home `{place}`"));
        let lock = Lock::acquire(&slot.beside(".lock"), cancel, tell)?;
        let mut found = Self { slot, lock, _canonical: canonical };
        slot.carry
            .settle()
            .map_err(Error::io("wait for what a killed process has begun to carry"))?;
        found.recover(owner)?;
        Ok(found)
    }

    /// What the lock's text does not know may be anybody's, unless it is the build user's.
    fn recover(&mut self, owner: Option<Owner>) -> Result<()> {
        let (home, tmp) = (&self.slot.place, self.slot.beside(".tmp"));
        let (left, left_tmp) = (home.symlink_metadata().ok(), tmp.symlink_metadata().ok());
        let known = self.lock.text();
        if left.is_none() && left_tmp.is_none() && known.is_empty() {
            return Ok(());
        }
        let theirs =
            |found: &fs::Metadata| owner.is_some() && self.slot.uids.contains(&found.uid());
        let interrupted = left_tmp.as_ref().is_some_and(theirs);
        if let Some(left) = left {
            let ours = known == identity(&left) || (interrupted && theirs(&left));
            if left.is_dir() && ours {
                tracing::warn!(home = %home.display(), "removing the tree of a step that was killed");
                stuck::clear(self.slot, home)?;
            } else if !is_empty_dir(home) {
                return Err(Error::HomeTaken(home.clone()));
            }
        }
        let ours = !known.is_empty() || interrupted;
        if left_tmp.is_some() && !ours && !is_empty_dir(&tmp) {
            return Err(Error::HomeTaken(tmp));
        }
        for suffix in if ours { &[".secrets", ".aside", ".tmp"][..] } else { &[".tmp"] } {
            stuck::clear(self.slot, &self.slot.beside(suffix))?;
        }
        self.lock.set_text("")
    }

    /// Puts `tree` in the home's place, with what the step wants placed in it. All is `owner`'s then, if there is one.
    /// Where its secrets are kept in memory, only their places are made.
    pub(crate) fn place(
        mut self,
        tree: &Path,
        owner: Option<Owner>,
        wanted: &Wanted<'_>,
        secrets_in_memory: bool,
    ) -> Result<Placed<'a>> {
        tree::give(tree, owner)?;
        let found =
            tree.symlink_metadata().map_err(Error::io(format!("stat `{}`", tree.display())))?;
        self.lock.set_text(&identity(&found))?;
        let slot = self.slot;
        let mut placed = Placed {
            home: self,
            tree: tree.to_owned(),
            in_place: false,
            mounts: None,
            started: false,
            done: false,
        };
        private_dir(&slot.beside(".tmp"), owner)?;
        match carry_in(slot, tree) {
            Ok(()) => placed.in_place = true,
            Err(error) => return Err(not_renamed(error, tree, &slot.place)),
        }
        if slot.carry.mounts() {
            // A dataset that is mounted elsewhere has another device.
            placed.home.name_tree()?;
        }
        // What fails half way is taken out again with the rest.
        let mounts = placed.mounts.insert(Mounts::new(slot, owner, secrets_in_memory));
        mounts.place(wanted)?;
        Ok(placed)
    }
}

impl Home<'_> {
    /// Has the lock name the tree that is in the home's place.
    fn name_tree(&mut self) -> Result<()> {
        let place = &self.slot.place;
        let found = place.symlink_metadata();
        let found = found.map_err(Error::io(format!("stat `{}`", place.display())))?;
        self.lock.set_text(&identity(&found))
    }
}

/// A tree in the home's place. Dropping it puts it back, as [`Placed::put_back`] does, if no step has been started in it.
pub(crate) struct Placed<'a> {
    home: Home<'a>,
    tree: PathBuf,
    in_place: bool,
    mounts: Option<Mounts<'a>>,
    started: bool,
    done: bool,
}

impl Placed<'_> {
    /// From now on, dropping this abandons the tree: somebody may write to it.
    pub(crate) fn start(&mut self) {
        self.started = true;
    }

    /// Takes out what was placed and renames the tree back. No process of the step may live.
    pub(crate) fn put_back(mut self) -> Result<()> {
        self.undo()
    }

    /// Leaves the tree where it is, because a process of the step cannot be killed; only the secrets go.
    /// The next step that wants this home clears it.
    pub(crate) fn abandon(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        self.done = true;
        if let Some(mounts) = self.mounts.take() {
            mounts.abandon();
        }
    }

    fn undo(&mut self) -> Result<()> {
        self.done = true;
        let slot = self.home.slot;
        let mounted = slot.carry.mounts();
        // Before the tree came, only the machine's owner can have mounted something here.
        let unmounted = if self.in_place && !mounted { stuck::unmount(slot) } else { Ok(()) };
        // Wherever the tree is by now, its secrets go.
        let taken = self.mounts.take().map_or(Ok(()), Mounts::take_out).and(unmounted);
        // Where trees and caches are mounted, these have been brought back, and what is left below the tree is not ours.
        let taken =
            if mounted { taken.and(stuck::unmount_inside(slot, &self.tree)) } else { taken };
        let back = self.check_identity().and_then(|()| self.rename_back());
        if matches!(back, Ok(()) | Err(Error::HomeGone(_))) {
            let cleared = stuck::clear(slot, &slot.beside(".tmp"));
            self.home.lock.set_text("")?;
            return taken.and(back).and(cleared);
        }
        taken.and(back)
    }

    fn rename_back(&mut self) -> Result<()> {
        let home = &self.home.slot.place;
        if !std::mem::take(&mut self.in_place) {
            return Ok(());
        }
        let action = || format!("rename `{}` back to `{}`", home.display(), self.tree.display());
        let slot = self.home.slot;
        let back = match slot.carry.mounts() {
            true => slot.carry.home(home, &self.tree),
            false => tree::rename(home, &self.tree),
        };
        back.map_err(Error::io(action()))
    }
}

impl Placed<'_> {
    /// A step that may write to the home's parent may have put something else in the home's place.
    fn check_identity(&self) -> Result<()> {
        let home = &self.home.slot.place;
        let found = home.symlink_metadata();
        let same = found.is_ok_and(|found| identity(&found) == self.home.lock.text());
        if self.in_place && !same { Err(Error::HomeGone(home.clone())) } else { Ok(()) }
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.started {
            return self.leave();
        }
        if let Err(error) = self.undo() {
            tracing::error!(%error, "failed to put a tree back");
        }
    }
}

/// Has `tree` in the slot's place.
fn carry_in(slot: &Slot, tree: &Path) -> io::Result<()> {
    if slot.carry.mounts() {
        slot.carry.away(tree, &slot.place)
    } else {
        tree::rename(tree, &slot.place)
    }
}

fn make_parents(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::io(format!("make `{}`", path.display())))
}

/// Makes a directory for `owner` alone.
pub(crate) fn private_dir(path: &Path, owner: Option<Owner>) -> Result<()> {
    let action = || format!("make `{}`", path.display());
    match DirBuilder::new().mode(0o700).create(path) {
        // What a killed step has left was removed before.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir(path).map_err(|_| Error::HomeTaken(path.to_owned()))?;
            DirBuilder::new().mode(0o700).create(path).map_err(Error::io(action()))?;
        }
        made => made.map_err(Error::io(action()))?,
    }
    let Some(owner) = owner else { return Ok(()) };
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(Error::io(action()))
}

/// What tells a tree from all others, across renames.
fn identity(found: &fs::Metadata) -> String {
    format!("{} {}", found.dev(), found.ino())
}

fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

pub(crate) fn not_renamed(error: io::Error, from: &Path, home: &Path) -> Error {
    if error.kind() == io::ErrorKind::CrossesDevices {
        return Error::OtherVolume { from: from.to_owned(), home: home.to_owned() };
    }
    Error::io(format!("rename `{}` to `{}`", from.display(), home.display()))(error)
}
