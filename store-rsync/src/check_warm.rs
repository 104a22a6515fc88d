//! Proves trees that are kept warm against the results they equal.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use obuilder_core::error::StoreError;
use obuilder_core::finding::Finding;
use tree_copy::{Index, check_index, digest_tree};

use crate::check::walk;
use crate::layout::{failed, tree_failed};
use crate::store::Inner;
use crate::warm::{self, Found, INDEX, WarmTree};

/// Checks the trees that nobody has at this moment; what is wrong with one is mended by doing without it.
pub(crate) fn check(
    store: &Inner,
    repair: bool,
    deep: bool,
    found: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    for dir in warm::dirs(store, None)? {
        let (dir, lock, what) = match Found::at(dir)? {
            Found::Taken => continue,
            Found::Broken(dir, lock) => (dir, lock, "has no index or no files".to_owned()),
            Found::Whole(tree) => match wrong(store, &tree, deep)? {
                None => continue,
                Some(what) => (tree.dir, tree.lock, what),
            },
        };
        let what = format!("`{}`, a tree kept for the next step, {what}", dir.display());
        let throw = || store.throw_away(&dir, lock);
        found.push(Finding::new(None, what, "remove it", repair.then_some(throw)));
    }
    Ok(())
}

/// What is wrong with a tree, as the end of a sentence.
fn wrong(store: &Inner, tree: &WarmTree, deep: bool) -> Result<Option<String>, StoreError> {
    let Some(result) = tree.result(store)? else {
        return Ok(Some("is of a result that has gone".to_owned()));
    };
    let index = match Index::read(&tree.dir.join(INDEX)) {
        Ok(Some(index)) => index,
        _ => return Ok(Some("has a damaged index".to_owned())),
    };
    let (rootfs, theirs) = (tree.dir.join("rootfs"), result.rootfs());
    if let Some(path) = check_index(&index, &rootfs, &theirs).map_err(tree_failed)? {
        return Ok(Some(format!("is not as its index says at `{}`", path.display())));
    }
    if let Some(path) = named_elsewhere(&rootfs)? {
        return Ok(Some(format!("shares `{}` with what is outside", path.display())));
    }
    let digest = |tree: &Path| digest_tree(tree, None).map_err(tree_failed);
    if deep && digest(&rootfs)? != digest(&theirs)? {
        return Ok(Some("does not hold what its result holds".to_owned()));
    }
    Ok(None)
}

/// A file of the tree that has more names than there are in the tree: a result may be the other.
fn named_elsewhere(rootfs: &Path) -> Result<Option<PathBuf>, StoreError> {
    let mut seen: HashMap<(u64, u64), (u64, PathBuf)> = HashMap::new();
    let note = |path: PathBuf, meta: &std::fs::Metadata| {
        let entry = seen.entry((meta.dev(), meta.ino())).or_insert((meta.nlink(), path));
        entry.0 -= 1;
    };
    walk(rootfs.to_owned(), note).map_err(|(path, e): (_, io::Error)| failed("read", &path, e))?;
    Ok(seen.into_values().find(|(left, _)| *left > 0).map(|(_, path)| path))
}
