//! The pool of slots: which build user runs a step.
//!
//! Each build user has a lock that is good for the whole machine, so several processes share one pool. The lock's text says
//! whether the user may have processes: a killed run leaves it, and the next one that takes the user kills them first.
//! A user whose processes outlive SIGKILL is put aside until they have gone; the others go on.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use obuilder_core::Cancel;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::kill::{everything_of, names};
use crate::lock::Lock;
use crate::platform::cgroup::Group;
use crate::slot::{Placing, Slot};
use crate::user::{self, BuildUser, closed_ancestor};
use crate::{platform, sweep};

/// Text of a user's lock while a step may run. Lines with the directories of its control group follow.
const BUSY: &str = "a step runs";
/// How the text of the lock of a user who has unkillable processes begins; which ones, and the same lines, follow.
const ASIDE: &str = "put aside: ";
/// How often a waiting step looks whether a user who was put aside is well again.
const RECOVERY: Duration = Duration::from_secs(1);
/// How often a waiting step looks for a free slot.
const PATIENCE: Duration = Duration::from_millis(10);

/// The slots of one sandbox.
pub(crate) struct Pool {
    slots: Vec<Slot>,
}

/// A slot that is ours, with nothing of its user running.
pub(crate) struct Taken {
    pub(crate) slot: Slot,
    pub(crate) user: BuildUser,
    lock: Lock,
}

/// What came of trying to take a slot.
enum Tried {
    Taken(Box<Taken>),
    /// Somebody else has it.
    Busy,
    /// It has processes that cannot be killed: which.
    Aside(String),
}

impl Pool {
    /// The slots of `config`.
    pub(crate) fn new(config: &Config) -> Self {
        Self { slots: config.slots() }
    }

    /// All slots.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Takes a free slot, if possible the one whose user has the number `preferred`. Needs root.
    ///
    /// A slot that cannot be had for a reason of its own is no obstacle while there is another.
    pub(crate) fn take(
        &self,
        preferred: Option<u32>,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Taken> {
        let mut order: Vec<_> = self.slots.iter().collect();
        order.sort_by_key(|slot| Some(slot.user.uid) != preferred);
        let (mut told, mut looked) = (false, None::<Instant>);
        loop {
            let look = looked.is_none_or(|when| when.elapsed() > RECOVERY);
            if look {
                looked = Some(Instant::now());
            }
            let (mut aside, mut errors) = (Vec::new(), Vec::new());
            for slot in &order {
                match try_slot(slot, look) {
                    Ok(Tried::Taken(taken)) => return Ok(*taken),
                    Ok(Tried::Busy) => {}
                    Ok(Tried::Aside(what)) => aside.push(what),
                    Err(error) => errors.push(error),
                }
            }
            if aside.len() + errors.len() == order.len() {
                let survivors = Error::Survivors(aside.join("; "));
                return Err(errors.into_iter().next().unwrap_or(survivors));
            }
            if !std::mem::replace(&mut told, true) {
                for error in errors {
                    tracing::warn!(error = error.with_sources(), "a slot cannot be used");
                }
                waiting(&self.busy());
            }
            if cancel.wait_timeout(PATIENCE) {
                return Err(Error::Cancelled);
            }
        }
    }

    /// What a step waits for.
    fn busy(&self) -> String {
        match &self.slots[..] {
            [slot] => format!("build user `{}` runs another step", slot.user.name),
            slots => format!("all {} slots run other steps", slots.len()),
        }
    }

    /// The build user of `slot`, made if it is missing. Needs root, and waits for the slot only to make the user.
    pub(crate) fn ensure(&self, slot: &Slot) -> Result<BuildUser> {
        if let Some(user) = user::find(slot)? {
            return Ok(user);
        }
        let _lock = user::lock(slot, &Cancel::new(), || {})?;
        BuildUser::ensure(slot)
    }

    /// Takes each slot that is free and that a killed run has left busy, and kills what runs there. Then `tidy` is given each
    /// such slot, and each that is configured no more and whose place of its own is not empty.
    pub(crate) fn recover(&self, mut tidy: impl FnMut(&Slot)) -> Result<()> {
        let former = self.former();
        for (slot, configured) in self
            .slots
            .iter()
            .map(|slot| (slot, true))
            .chain(former.iter().map(|slot| (slot, false)))
        {
            if !slot.lock_path().exists() {
                continue;
            }
            let Some(mut lock) = Lock::attempt(&slot.lock_path())? else { continue };
            let own = slot.placing != Placing::Rename;
            let left = state(&lock) == BUSY || (!configured && own && slot.is_occupied());
            // Whoever has the number now may be somebody else.
            let ours = left && matches!(user::find(slot), Ok(Some(_)));
            if ours && clear(slot, &mut lock, true)?.is_none() {
                tidy(slot);
            }
        }
        Ok(())
    }

    /// Slots that have been used and are not configured (any more).
    pub(crate) fn former(&self) -> Vec<Slot> {
        let Some(first) = self.slots.first() else { return Vec::new() };
        let all = first.traces().into_iter();
        all.filter(|slot| !self.slots.iter().any(|now| now.has_all_of(slot))).collect()
    }
}

/// Removes the build user of `slot`, and what a killed run has left of it; says whether there was one. Needs root, and waits for a
/// step of the user's.
pub(crate) fn remove(slot: &Slot, waiting: &dyn Fn(&str)) -> Result<bool> {
    if user::find(slot)?.is_none() {
        return Ok(false);
    }
    let tell = || waiting(&format!("build user `{}` runs a step", slot.user.name));
    let mut lock = user::lock(slot, &Cancel::new(), tell)?;
    // Somebody else may have removed it meanwhile.
    if user::find(slot)?.is_none() {
        return Ok(false);
    }
    // Whatever the lock says, something may have been started since.
    let text = groups(&lock).fold(BUSY.to_owned(), with_line);
    lock.set_text(&text)?;
    if let Some(alive) = clear(slot, &mut lock, true)? {
        return Err(Error::Survivors(alive));
    }
    platform::user::remove(slot).map(|()| true)
}

/// Takes `slot` if it is free and well; whether one that was put aside has become well is looked at if `look` says so.
fn try_slot(slot: &Slot, look: bool) -> Result<Tried> {
    user::make_lock_dir(slot)?;
    let Some(mut lock) = Lock::attempt(&slot.lock_path())? else { return Ok(Tried::Busy) };
    // First of all: what runs under the number of somebody who is no build user is none of our business.
    let user = BuildUser::ensure(slot)?;
    if lock.is_fresh() {
        // Until everything has been killed, the next one must try too.
        lock.set_text(BUSY)?;
    }
    if let Some(alive) = clear(slot, &mut lock, look)? {
        return Ok(Tried::Aside(alive));
    }
    match closed_ancestor(&slot.home, user.owner) {
        None => Ok(Tried::Taken(Box::new(Taken { slot: slot.clone(), user, lock }))),
        Some(dir) => {
            let (user, home) = (slot.user.name.clone(), slot.home.clone());
            Err(Error::Unreachable { user, home, dir })
        }
    }
}

/// Kills what a killed run has left of the user, who must be a build user of ours; what cannot be killed is told.
fn clear(slot: &Slot, lock: &mut Lock, look: bool) -> Result<Option<String>> {
    let name = &slot.user.name;
    if lock.text().is_empty() {
        return Ok(None);
    }
    let aside = state(lock).strip_prefix(ASIDE);
    if let Some(known) = aside {
        let alive = if look { names(&user::alive(slot)?) } else { known.to_owned() };
        if !alive.is_empty() {
            return Ok(Some(format!("build user `{name}` has {alive}")));
        }
    }
    platform::services::stop_of(slot.user.uid);
    match everything_of(slot.user.uid) {
        Ok(()) => {
            groups(lock).for_each(platform::cgroup::remove_left);
            sweep::after(slot.owner(), &slot.home);
            lock.set_text("")?;
            Ok(None)
        }
        Err(Error::Survivors(alive)) => {
            tracing::warn!("build user `{name}` is put aside: {alive} cannot be killed");
            let text = groups(lock).fold(format!("{ASIDE}{alive}"), with_line);
            lock.set_text(&text)?;
            Ok(Some(format!("build user `{name}` has {alive}")))
        }
        Err(error) => Err(error),
    }
}

/// What a lock's text says, without the control groups.
fn state(lock: &Lock) -> &str {
    lock.text().lines().next().unwrap_or_default()
}

/// The control groups in a lock's text.
fn groups(lock: &Lock) -> impl Iterator<Item = &Path> {
    lock.text().lines().skip(1).map(Path::new)
}

fn with_line(text: String, dir: &Path) -> String {
    format!("{text}\n{}", dir.display())
}

impl Taken {
    /// From now on a killed run leaves processes, and `group` once it is made.
    pub(crate) fn set_busy(&mut self, group: &Group) -> Result<()> {
        self.lock.set_text(&group.dirs().into_iter().fold(BUSY.to_owned(), with_line))
    }

    /// Removes what the user, of whom nothing lives any more, has left outside its home.
    pub(crate) fn sweep(&self) {
        sweep::after(self.user.owner, &self.slot.home);
    }

    /// Nothing of the user lives any more.
    pub(crate) fn set_idle(&mut self) -> Result<()> {
        self.lock.set_text("")
    }
}

/// The number of the user who owns the tree at `tree`, if it is there.
pub(crate) fn owner_of(tree: &Path) -> Option<u32> {
    tree.symlink_metadata().ok().map(|found| found.uid())
}
