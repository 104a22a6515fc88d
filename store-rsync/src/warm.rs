//! Trees kept warm: what a step left, ready to be the tree of the next.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use obuilder_core::ResultId;
use obuilder_core::contracts::Snapshot;
use obuilder_core::error::StoreError;
use obuilder_core::fault;
use tree_copy::{Index, Options, Plan, Summary, bring_tree, plan_change};

use crate::layout::{failed, tree_failed};
use crate::lock::{Exclusive, Locked};
use crate::store::Inner;

/// What a tree's index is called, beside its `rootfs`.
pub(crate) const INDEX: &str = "obuild-index";

/// How long to wait for a tree that somebody only looks at; a copy costs more.
const LOOKED_AT: Duration = Duration::from_millis(200);

/// Which trees are kept warm, so that the next step on the same result need not wait for a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmTrees {
    /// At most so many; none at all when 0. Useful are as many as steps run at once.
    pub most: usize,
    /// Smaller trees are copied as fast as they would be looked through.
    pub least_entries: u64,
    /// Removed when a store is opened and nobody has used them for so long.
    pub longest: Duration,
    /// When a step has run for so long, its result is begun: linked to the one before. Afterwards only the changes are made.
    pub ahead_after: Duration,
}

impl Default for WarmTrees {
    /// Two trees of 256 entries or more, for a day; results are begun after a tenth of a second.
    fn default() -> Self {
        let (longest, ahead_after) =
            (Duration::from_secs(24 * 60 * 60), Duration::from_millis(100));
        Self { most: 2, least_entries: 256, longest, ahead_after }
    }
}

/// Tells a result from any other that ever had its id: inode and times of its tree's root. Small files beside that may come and
/// go, such as a digest.
pub(crate) type Stamp = [u8; 40];

/// The stamp of the result at `dir`, which is pinned or ours.
pub(crate) fn stamp(dir: &Path) -> Result<Stamp, StoreError> {
    let rootfs = dir.join("rootfs");
    let meta = fs::symlink_metadata(&rootfs).map_err(|e| failed("read", &rootfs, e))?;
    let mut stamp = [0; 40];
    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
    stamp[..8].copy_from_slice(&meta.ino().to_le_bytes());
    for (part, number) in stamp[8..].chunks_mut(8).zip(times) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    Ok(stamp)
}

/// What is noted in the index of a tree that equals the result `id`.
pub(crate) fn note(id: &ResultId, stamp: &Stamp) -> Vec<u8> {
    [id.as_str().as_bytes(), stamp].concat()
}

fn read_note(note: &[u8]) -> Option<(ResultId, &[u8])> {
    let (id, stamp) = note.split_at_checked(note.len().checked_sub(size_of::<Stamp>())?)?;
    Some((ResultId::parse(std::str::from_utf8(id).ok()?)?, stamp))
}

/// A warm tree that nobody else has.
pub(crate) struct WarmTree {
    pub(crate) dir: PathBuf,
    pub(crate) lock: Locked,
    pub(crate) summary: Summary,
    used: SystemTime,
}

/// What lies in `warm`.
pub(crate) enum Found {
    /// Somebody has it, or has moved it away.
    Taken,
    /// It is of no use to anybody.
    Broken(PathBuf, Locked),
    /// Ours, until this is dropped.
    Whole(WarmTree),
}

impl Found {
    pub(crate) fn at(dir: PathBuf) -> Result<Self, StoreError> {
        let Exclusive::Locked(lock) =
            Locked::exclusive(&dir).map_err(|e| failed("lock", &dir, e))?
        else {
            return Ok(Self::Taken);
        };
        let index = dir.join(INDEX);
        let used = fs::metadata(&index).and_then(|meta| meta.modified());
        match (Summary::read(&index), used) {
            (Ok(Some(summary)), Ok(used)) if dir.join("rootfs").is_dir() => {
                Ok(Self::Whole(WarmTree { dir, lock, summary, used }))
            }
            _ => Ok(Self::Broken(dir, lock)),
        }
    }
}

impl WarmTree {
    /// The result that it equals, pinned, if that is still there.
    pub(crate) fn result(&self, store: &Inner) -> Result<Option<Snapshot>, StoreError> {
        let Some((id, noted)) = read_note(&self.summary.note) else { return Ok(None) };
        let Some(pin) = store.pinned(&id, store.layout.result(&id))? else { return Ok(None) };
        let same = stamp(pin.dir()).is_ok_and(|stamp| stamp == noted);
        Ok(same.then_some(pin))
    }

    fn is_of(&self, id: &ResultId, stamp: &Stamp) -> bool {
        self.summary.note == note(id, stamp)
    }

    pub(crate) fn throw_away(self, store: &Inner) -> Result<(), StoreError> {
        store.throw_away(&self.dir, self.lock)
    }

    /// Moves it to where results are made, as one for `id`. From then on nobody takes it for warm, not even after a power cut.
    fn move_out(&mut self, store: &Inner, id: &ResultId) -> Result<(), StoreError> {
        let to = store.layout.tmp().join(format!("{id}-{}", store.layout.unique()));
        fs::rename(&self.dir, &to).map_err(|e| failed("take", &self.dir, e))?;
        self.dir = to;
        fault::point("warm-taken");
        store.sync_dir(&store.layout.warm())
    }
}

/// Directories in `warm`; those of the result `of` alone, if given.
pub(crate) fn dirs(store: &Inner, of: Option<&ResultId>) -> Result<Vec<PathBuf>, StoreError> {
    let warm = store.layout.warm();
    let list =
        || fs::read_dir(&warm)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut dirs = list().map_err(|e| failed("list", &warm, e))?;
    if let Some(id) = of {
        let named = |dir: &PathBuf| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(id.as_str()))
        };
        dirs.retain(named);
    }
    Ok(dirs)
}

/// All warm trees that nobody has, locked, the last used first. Broken ones are thrown away.
fn idle(store: &Inner, of: Option<&ResultId>) -> Result<Vec<WarmTree>, StoreError> {
    idle_or_broken(store, of, &mut Vec::new())
}

/// As [`idle`]; adds the broken ones' paths to `broken`.
fn idle_or_broken(
    store: &Inner,
    of: Option<&ResultId>,
    broken: &mut Vec<PathBuf>,
) -> Result<Vec<WarmTree>, StoreError> {
    let mut all = Vec::new();
    for dir in dirs(store, of)? {
        match Found::at(dir)? {
            Found::Taken => {}
            Found::Whole(tree) => all.push(tree),
            Found::Broken(dir, lock) => {
                store.throw_away(&dir, lock)?;
                broken.push(dir);
            }
        }
    }
    all.sort_by_key(|tree| Reverse(tree.used));
    Ok(all)
}

/// Gives a tree that equals the pinned result `base`, if one is warm or can be had from a warm one cheaply. It lies where
/// results are made, for `id`.
pub(crate) fn take(
    store: &Inner,
    id: &ResultId,
    base: &Snapshot,
    stamp: &Stamp,
) -> Result<Option<WarmTree>, StoreError> {
    let start = Instant::now();
    while !dirs(store, Some(base.id()))?.is_empty() && start.elapsed() < LOOKED_AT {
        for mut tree in idle(store, Some(base.id()))? {
            if tree.is_of(base.id(), stamp) {
                tree.move_out(store, id)?;
                return Ok(Some(tree));
            }
            // Of an earlier result of that id, which has gone.
            tree.throw_away(store)?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let Some((mut tree, index, plan)) = cheapest(store, base)? else { return Ok(None) };
    tracing::debug!(cost = plan.cost(), "a warm tree is brought to another state");
    tree.move_out(store, id)?;
    match bring(store, &mut tree, &index, plan, base, stamp) {
        Ok(()) => Ok(Some(tree)),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to bring a warm tree to another state; a fresh copy is made"
            );
            tree.throw_away(store)?;
            Ok(None)
        }
    }
}

/// The idle tree with the fewest differences from `base`, if these are few enough to be cheaper than a copy.
fn cheapest(store: &Inner, base: &Snapshot) -> Result<Option<(WarmTree, Index, Plan)>, StoreError> {
    let mut best: Option<(WarmTree, Index, Plan)> = None;
    for tree in idle(store, None)? {
        let Some(_pin) = tree.result(store)? else { continue };
        let Ok(Some(index)) = Index::read(&tree.dir.join(INDEX)) else { continue };
        let plan = plan_change(&index, &base.rootfs()).map_err(tree_failed)?;
        let better = best.as_ref().is_none_or(|(_, _, best)| plan.cost() < best.cost());
        if better && plan.cost() * 4 < index.summary.entries {
            best = Some((tree, index, plan));
        }
    }
    Ok(best)
}

fn bring(
    store: &Inner,
    tree: &mut WarmTree,
    index: &Index,
    plan: Plan,
    base: &Snapshot,
    stamp: &Stamp,
) -> Result<(), StoreError> {
    let options = Options { how: store.mode.how(), ..Options::default() };
    let (draft, copied) =
        bring_tree(&tree.dir.join("rootfs"), index, plan, &base.rootfs(), &options)
            .map_err(tree_failed)?;
    if !copied.is_faithful() {
        let source = "something in it cannot be copied".into();
        return Err(StoreError::Failed { action: "bring a tree to another state".into(), source });
    }
    fault::point("warm-brought");
    let path = tree.dir.join(INDEX);
    draft.write(&path, &note(base.id(), stamp)).map_err(tree_failed)?;
    let summary = Summary::read(&path).map_err(tree_failed)?;
    tree.summary = summary.ok_or_else(|| failed("read", &path, io::ErrorKind::NotFound.into()))?;
    Ok(())
}

/// Keeps the locked directory `dir`, whose tree and index are those of the result `id`, as a warm tree.
pub(crate) fn keep(store: &Inner, dir: &Path, id: &ResultId) -> Result<(), StoreError> {
    let to = store.layout.warm().join(format!("{id}-{}", store.layout.unique()));
    fs::rename(dir, &to).map_err(|e| failed("keep", dir, e))?;
    fault::point("warm-kept");
    Ok(())
}

/// Removes the trees that are too many; all of them where the volume is nearly full.
pub(crate) fn trim(store: &Inner) -> Result<(), StoreError> {
    let most = if store.is_nearly_full()? { 0 } else { store.warm.most };
    if dirs(store, None)?.len() <= most {
        return Ok(());
    }
    idle(store, None)?.into_iter().skip(most).try_for_each(|tree| tree.throw_away(store))
}

/// Removes the warm trees of the result `id`, which has gone.
pub(crate) fn forget(store: &Inner, id: &ResultId) -> Result<(), StoreError> {
    idle(store, Some(id))?.into_iter().try_for_each(|tree| tree.throw_away(store))
}

/// Bytes of all idle warm trees; unless `measure`, they are removed.
pub(crate) fn drop_all(store: &Inner, measure: bool) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for tree in idle(store, None)? {
        bytes += tree.summary.bytes;
        if !measure {
            tree.throw_away(store)?;
        }
    }
    Ok(bytes)
}

/// Removes warm trees that are broken, whose result has gone, that are too old or too many; says which were of no use.
pub(crate) fn sweep(store: &Inner) -> Result<Vec<PathBuf>, StoreError> {
    let mut useless = Vec::new();
    for tree in idle_or_broken(store, None, &mut useless)? {
        let old = tree.used.elapsed().is_ok_and(|age| age > store.warm.longest);
        let gone = tree.result(store)?.is_none();
        if gone {
            useless.push(tree.dir.clone());
        }
        if old || gone {
            tree.throw_away(store)?;
        }
    }
    trim(store)?;
    Ok(useless)
}
