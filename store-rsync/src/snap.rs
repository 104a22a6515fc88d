//! Makes a result of a tree that goes on to the next step.

use std::fs;
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;
use obuilder_core::fault;
use tree_copy::{Draft, Index, Known, Moment, Options, Snapped, snapshot_tree};

use crate::layout::{failed, tree_failed};
use crate::pending::RsyncPending;
use crate::warm::{self, INDEX, Stamp};

/// What a tree was when a step got it.
#[derive(Debug)]
pub(crate) struct Began {
    /// The result that it equalled then, as the index beside it says.
    pub(crate) stamp: Stamp,
    /// What the tree got a ctime of this moment or later, the step may have changed.
    pub(crate) trusted_before: Moment,
}

/// Makes a directory that can be published as the result of `tree`, with the tree's new index; goes on with what was made ahead.
///
/// `None` when the tree itself must become the result: its base has gone, its index is damaged, or the disk is full.
pub(crate) fn snapshot(
    tree: &RsyncPending,
    base: &ResultId,
    began: &Began,
    ahead: Option<RsyncPending>,
) -> Result<Option<(RsyncPending, Draft)>, StoreError> {
    let store = &tree.store;
    let Some(pin) = store.pinned(base, store.layout.result(base))? else { return Ok(None) };
    if warm::stamp(pin.dir())? != began.stamp {
        return Ok(None);
    }
    let index = match Index::read(&tree.dir.join(INDEX)) {
        Ok(Some(index)) => index,
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the tree becomes the result");
            return Ok(None);
        }
    };
    let begun = ahead.is_some();
    let result = ahead.map_or_else(|| RsyncPending::new(&Arc::clone(store), &tree.id, None), Ok)?;
    let known = Known {
        index: &index,
        snapshot: &pin.rootfs(),
        trusted_before: began.trusted_before,
        trust: store.mode.trust(),
        begun,
    };
    let options = Options { how: store.mode.how(), ..Options::default() };
    let done =
        snapshot_tree(&tree.dir.join("rootfs"), &result.dir.join("rootfs"), &known, &options);
    fault::point("commit-snapped");
    match done.map_err(tree_failed) {
        Ok(Snapped { draft, linked, copied }) => {
            tracing::debug!(
                id = tree.id.short(),
                begun,
                linked,
                copied = copied.entries,
                "snapshot made"
            );
            // Else the tree holds what the result does not.
            Ok(copied.is_faithful().then_some(()).map(|()| (result, draft)))
        }
        Err(StoreError::Full { .. }) => {
            drop(result);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Moves all that lies beside the tree to the result made of it.
pub(crate) fn move_beside(tree: &RsyncPending, result: &RsyncPending) -> Result<(), StoreError> {
    for entry in fs::read_dir(&tree.dir).map_err(|e| failed("list", &tree.dir, e))? {
        let entry = entry.map_err(|e| failed("list", &tree.dir, e))?;
        let name = entry.file_name();
        if name != "rootfs" && name != INDEX {
            let to = result.dir.join(&name);
            fs::rename(entry.path(), &to).map_err(|e| failed("move", &entry.path(), e))?;
        }
    }
    Ok(())
}
