//! What is left of a failed step: its log, and on demand its tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ResultCache;
use super::fsck::digest_of;
use super::meta::Meta;
use super::steps::{Plan, StepFailure};
use crate::contracts::{Pending, Store};
use crate::error::{FetchError, SandboxError, StoreError, chain};
use crate::fault;
use crate::id::ResultId;
use crate::index::Index;

impl ResultCache {
    /// Puts away what is left of a failed step, in place of what an earlier failure left. Gives the failure back.
    pub(super) fn bury(
        &self,
        plan: &Plan,
        pending: Box<dyn Pending>,
        failure: StepFailure,
    ) -> StepFailure {
        let unknown = matches!(failure, StepFailure::Fetch(FetchError::Unknown { .. }));
        if unknown
            || matches!(
                failure,
                StepFailure::Cancelled | StepFailure::Sandbox(SandboxError::Unsupported { .. })
            )
        {
            // Nothing was done that anybody could look into.
            warn(pending.discard());
            return failure;
        }
        warn(self.keep_log(&plan.id, &pending.dir().join("log")));
        fault::point("bury-log");
        let keep = plan.keep_failed && matches!(failure, StepFailure::Command(_));
        let kept = if keep {
            warn(keep_tree(plan, pending))
        } else {
            warn(pending.discard());
            false
        };
        if !kept {
            // An older tree would not fit the new log.
            warn(self.drop_kept(&plan.id));
        }
        if let Err(error) = self.index.add_failure(&plan.id, plan.heading(), &chain(&failure), kept)
        {
            tracing::warn!("{error}");
        }
        fault::point("bury-indexed");
        failure
    }

    /// Deletes a kept tree, where there is no result of the same id that would go with it.
    fn drop_kept(&self, id: &ResultId) -> Result<(), StoreError> {
        match (self.store.kept(id)?, self.store.result(id)?) {
            (Some(kept), None) => {
                drop(kept);
                self.store.delete(id).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn keep_log(&self, id: &ResultId, log: &Path) -> Result<(), StoreError> {
        let target = self.failed_log(id);
        let dir = target.parent().expect("the log lies in a directory");
        fs::create_dir_all(dir).and_then(|()| fs::copy(log, &target)).map(drop).map_err(|source| {
            StoreError::io(
                format!("keep the log of the failed step as `{}`", target.display()),
                source,
            )
        })
    }

    /// Brings what the index knows of kept trees into line with those there are.
    pub(super) fn settle_failures(&self) -> Result<(), super::CacheError> {
        let failures = self.failures()?;
        let kept = self.store.kept_ids()?;
        for failure in failures.iter().filter(|one| one.kept && !kept.contains(&one.id)) {
            self.index.forget_kept(&failure.id)?;
        }
        for id in kept.iter().filter(|id| failures.iter().all(|failure| failure.id != **id)) {
            enter_kept(&*self.store, &self.index, id)?;
        }
        Ok(())
    }

    /// Where the log of a failed step is kept.
    pub(super) fn failed_log(&self, id: &ResultId) -> PathBuf {
        log_of(self.store.state_dir(), id)
    }

    /// Forgets a failed step. A full disk does not matter: the next start makes up for it.
    pub(super) fn forget(&self, id: &ResultId) -> Result<(), super::CacheError> {
        self.remove_notes(id);
        match self.index.remove(id) {
            Err(error) if error.is_full() => {
                tracing::warn!("{error}; the next start will make up for it")
            }
            removed => removed?,
        }
        Ok(())
    }

    /// Removes what lies in the state directory about a result or a failed step that has gone.
    pub(super) fn remove_notes(&self, id: &ResultId) {
        self.remove_failed_log(id);
        remove_file(&digest_of(self.store.state_dir(), id));
    }

    /// Removes the log of a failed step.
    pub(super) fn remove_failed_log(&self, id: &ResultId) {
        remove_file(&self.failed_log(id));
    }
}

/// Removes what is of no use any more, if it is there.
fn remove_file(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("failed to remove `{}`: {error}", path.display());
    }
}

/// Enters a failed tree of which the index knows nothing.
pub(super) fn enter_kept(
    store: &dyn Store,
    index: &Index,
    id: &ResultId,
) -> Result<(), super::CacheError> {
    let meta = store.kept(id)?.and_then(|kept| Meta::read(kept.dir())).unwrap_or_default();
    let reason = "it is not known why: the process was killed when it kept the tree";
    Ok(index.add_failure(id, &meta.heading, reason, true)?)
}

/// Where the log of a failed step is kept.
pub(super) fn log_of(state: &Path, id: &ResultId) -> PathBuf {
    state.join("failed-logs").join(id.as_str())
}

/// Keeps the tree with what a shell in it should know. When it is not to be kept, dropping it discards it.
fn keep_tree(plan: &Plan, pending: Box<dyn Pending>) -> Result<(), StoreError> {
    let dir = pending.dir();
    let written = plan.meta(None, Duration::ZERO).write(dir);
    written.map_err(|source| StoreError::io(format!("write `{}`", dir.display()), source))?;
    pending.keep()
}

/// Tells what went wrong while clearing up; says whether nothing did.
fn warn<T>(done: Result<T, StoreError>) -> bool {
    done.inspect_err(|error| tracing::warn!("{}", chain(error))).is_ok()
}
