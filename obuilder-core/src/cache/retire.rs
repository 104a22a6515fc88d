//! Deleting a result with everything that stands on it, so that it can be made anew.

use std::time::{Duration, Instant};

use super::ResultCache;
use super::steps::StepFailure;
use crate::cancel::Cancel;
use crate::error::StoreError;
use crate::fault;
use crate::id::ResultId;

/// How often to look again whether a result is still in use.
const RETRY: Duration = Duration::from_millis(50);

/// How long to wait for whoever uses a result. Two builds that each hold what the other wants gone would wait for ever.
const PATIENCE: Duration = Duration::from_secs(600);

impl ResultCache {
    /// Deletes `id` and everything that stands on it, waiting for whoever still uses them.
    ///
    /// A step that is being built on a result pins it until its own result is in the index. So once a result has been
    /// deleted, the index knows all that will ever stand on it.
    pub(crate) fn retire(
        &self,
        id: &ResultId,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<(), StepFailure> {
        self.retire_children(id, cancel, waiting)?;
        self.delete_unused(id, cancel, waiting)?;
        fault::point("retire-deleted");
        self.retire_children(id, cancel, waiting)?;
        self.index.remove(id)?;
        self.remove_notes(id);
        fault::point("retire-indexed");
        Ok(())
    }

    fn retire_children(
        &self,
        id: &ResultId,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<(), StepFailure> {
        loop {
            let children = self.index.children(id)?;
            if children.is_empty() {
                return Ok(());
            }
            children.iter().try_for_each(|child| self.retire(child, cancel, waiting))?;
        }
    }

    fn delete_unused(
        &self,
        id: &ResultId,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<(), StepFailure> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            match self.store.delete(id) {
                Ok(_) => return Ok(()),
                Err(StoreError::InUse(_)) if begun.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.into()),
            }
            if !std::mem::replace(&mut told, true) {
                waiting(&format!("result {} must go, and another build still uses it", id.short()));
            }
            if cancel.wait_timeout(RETRY) {
                return Err(StepFailure::Cancelled);
            }
        }
    }
}
