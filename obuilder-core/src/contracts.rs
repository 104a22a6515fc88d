//! The three contracts: what a store, a sandbox and a fetcher promise, and what they may rely on.
//!
//! Everything a step does is blocking work on files and processes, so the contracts are plain blocking calls:
//! one thread per running step, and one [`Cancel`] token to stop it. All three are shared between threads.
//! [`crate::cache`] puts the index, shared steps and pruning on top of any store, [`crate::interpreter`] specs on top of that.

mod image;

use std::path::{Path, PathBuf};

use bstr::{BStr, BString};

use crate::cancel::Cancel;
pub use crate::carry::{Carrier, Carry};
use crate::error::{FetchError, SandboxError, StoreError};
pub use crate::finding::{Finding, Held, Reconciled};
use crate::id::ResultId;
use crate::log::BuildLog;
pub use crate::snapshot::Snapshot;
use crate::spec::User;
use crate::step::{Outcome, Owner, Step};
pub use image::{Fingerprint, Image};

// ---------------------------------------------------------------------------------------------------- Store

/// Keeps results: one directory tree per id, with its log and the environment of its image.
///
/// ```text
/// DIR/rootfs/   the tree
/// DIR/log       what the step printed
/// DIR/env       ((env ((K V) …))), for a base image
/// ```
///
/// *May run at once:* every method, from any thread and from several processes on one store.
/// *Failure leaves* nothing that any method would take for a result; what a killed process leaves behind is
/// removed by the next [`Store::reconcile`].
pub trait Store: Send + Sync {
    /// The store as a user names it, such as `rsync:/var/lib/obuild/store`.
    fn location(&self) -> String;

    /// A directory on the store's own volume for the index, locks and logs; it exists and is private to the store's owner.
    fn state_dir(&self) -> &Path;

    /// Begins the result `id`: gives a private, writable tree, a copy of `base`.
    ///
    /// `base` is pinned until its copy is complete. Several begins of one id may be under way; the first commit wins.
    fn begin(&self, id: &ResultId, base: Base<'_>) -> Result<Box<dyn Pending>, StoreError>;

    /// The finished result `id`, pinned for as long as the returned value lives.
    fn result(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError>;

    /// The same for whoever may not want to look into it: where it takes something to show a result, that waits until its directory is
    /// asked for. A store may go by what it knows of the result without looking.
    fn held_result(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError> {
        self.result(id)
    }

    /// The kept tree of the last failed step `id` (see [`Pending::keep`]), pinned likewise.
    fn kept(&self, id: &ResultId) -> Result<Option<Snapshot>, StoreError>;

    /// Ids of all finished results, in no order.
    fn results(&self) -> Result<Vec<ResultId>, StoreError>;

    /// Ids of all kept failed trees, in no order.
    fn kept_ids(&self) -> Result<Vec<ResultId>, StoreError>;

    /// Deletes the result `id` and a kept tree of that id; says whether there was either.
    ///
    /// When it returns, neither can be found any more; freeing the space may go on in the background.
    /// A pinned result is left alone: [`StoreError::InUse`].
    fn delete(&self, id: &ResultId) -> Result<bool, StoreError>;

    /// Bytes that deleting `id` (result and kept tree) could free, as far as the store can tell.
    fn size(&self, id: &ResultId) -> Result<u64, StoreError>;

    /// Space on the store's volume.
    fn usage(&self) -> Result<Usage, StoreError>;

    /// Bytes that are kept only to make the next [`Store::begin`] cheap; unless `measure`, they are given up.
    fn drop_warm(&self, _measure: bool) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// What deleting does not free at once, where results share room with what is no result.
    fn held(&self) -> Result<Held, StoreError> {
        Ok(Held::default())
    }

    /// Removes what killed processes left behind, never the work of live ones; compares the store with the ids of the index.
    fn reconcile(&self, known: &[ResultId]) -> Result<Reconciled, StoreError>;

    /// Looks for what does not belong there or is not whole, `deep`ly at every file; puts it in order if it may `repair`.
    fn check(&self, _repair: bool, _deep: bool) -> Result<Vec<Finding>, StoreError> {
        Ok(Vec::new())
    }

    /// Leases a private, writable copy of the newest version of the cache `name` (empty when there is none).
    ///
    /// Any number of leases of one cache may be out at once. Names are any bytes but none at all.
    fn cache(&self, name: &BStr) -> Result<Box<dyn CacheLease>, StoreError>;

    /// Names and sizes in bytes of all caches.
    fn caches(&self) -> Result<Vec<(BString, u64)>, StoreError>;

    /// Deletes the cache `name`; says whether there was one. Leases that are out are not disturbed.
    fn delete_cache(&self, name: &BStr) -> Result<bool, StoreError>;

    /// How a tree or a lease gets to where a step sees it; by a rename, unless it is on a volume of its own.
    fn carry(&self) -> Carry {
        Carry::default()
    }
}

/// What a new tree starts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base<'a> {
    /// An empty directory of mode 0755.
    Empty,
    /// A copy of a finished result.
    Result(&'a ResultId),
    /// A copy of a kept failed tree.
    Kept(&'a ResultId),
}

/// A result being made. Dropping it discards it; a killed process discards it too.
pub trait Pending: Send {
    /// The directory that becomes the result. `rootfs/` is there; the caller adds `log` and, for an image, `env`.
    fn dir(&self) -> &Path;

    /// Makes the result visible, whole and durable. If another commit of the same id came first, that one stands
    /// and this one is discarded. Nobody may write to the tree any more. A kept tree of the id goes, unless it is pinned.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Keeps the tree and its log as the failed tree of its id, in place of an older one.
    fn keep(self: Box<Self>) -> Result<(), StoreError>;

    /// Removes the tree and says what could not be removed.
    fn discard(self: Box<Self>) -> Result<(), StoreError>;
}

/// A private copy of a cache. Dropping it throws the copy away.
pub trait CacheLease: Send {
    /// The copy: a directory, free to write, and to be carried away and back (see [`Store::carry`]) while the lease lives.
    fn dir(&self) -> &Path;

    /// Makes the copy the cache's newest version, unless another lease that began from the same version was released
    /// before; then it is thrown away. Returns whether it was kept.
    fn release(self: Box<Self>) -> Result<bool, StoreError>;
}

/// Space on a volume, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Size of the volume.
    pub total: u64,
    /// What may still be written.
    pub free: u64,
    /// Inodes still free; `u64::MAX` where the filesystem has no limit.
    pub free_inodes: u64,
}

// -------------------------------------------------------------------------------------------------- Sandbox

/// Runs commands in a tree, kept away from everything else.
///
/// *May run at once:* [`Sandbox::run`] up to [`Capabilities::slots`] at a time; further calls wait for a slot.
/// *After [`Sandbox::run`] returns*, however it ended: no process of the step lives, nothing is mounted, caches are back
/// in their leases, no secret is left, and the tree is where it was given. If that could not be reached, the error says so
/// and the caller must not use the tree.
pub trait Sandbox: Send + Sync {
    /// What this sandbox can do on this machine.
    fn capabilities(&self) -> Capabilities;

    /// Says why `step` cannot be honoured, before anything is made for it.
    fn check(&self, step: &Step) -> Result<(), SandboxError>;

    /// Where the absolute `path` of a spec lies in a tree, relative to the tree's root; without `.` or `..`.
    fn locate(&self, path: &BStr) -> Result<PathBuf, SandboxError>;

    /// Who owns the files that are copied in for `user`; `None` leaves them to the calling user.
    fn owner(&self, user: &User) -> Result<Option<Owner>, SandboxError>;

    /// Runs `step` in `tree` (the `rootfs` of a [`Pending`]) with everything it prints on `log`.
    ///
    /// A command that fails is an [`Outcome`], not an error. `waiting` is told what a step waits for before it starts.
    fn run(
        &self,
        step: &Step,
        tree: &Path,
        log: &BuildLog,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError>;

    /// Runs `step` in `tree` on the caller's own terminal instead of a log.
    fn run_on_terminal(
        &self,
        step: &Step,
        tree: &Path,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError>;
}

/// What a sandbox can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Its name, such as `build user mac705`.
    pub name: String,
    /// How many steps it runs at once.
    pub slots: usize,
    /// What it does not isolate here, one sentence each, for the user to know.
    pub weaknesses: Vec<String>,
}

// -------------------------------------------------------------------------------------------------- Fetcher

/// Brings base images.
///
/// *May run at once:* every method. *Failure leaves* a `rootfs` that the caller throws away.
pub trait Fetcher: Send + Sync {
    /// What stands behind `base` now. `last` is what it was when it was imported, so that an unchanged
    /// image need not be read again.
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> Result<Fingerprint, FetchError>;

    /// The same for a build, which may be cancelled meanwhile; for fetchers that ask others.
    fn look(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        _cancel: &Cancel,
    ) -> Result<Fingerprint, FetchError> {
        self.fingerprint(base, last)
    }

    /// Whether a build fails when what stands behind `base` cannot be seen, instead of going on with what was imported.
    fn insists(&self, _base: &BStr) -> bool {
        false
    }

    /// The environment that `base` would bring, without importing it.
    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError>;

    /// Fills the empty directory `rootfs` with `base`; what it tells goes to `log`.
    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError>;

    /// Where `base` would come from, in words for people, without asking anybody; `None` where there is nothing to say.
    fn origin(&self, _base: &BStr) -> Option<String> {
        None
    }
}
