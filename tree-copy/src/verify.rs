//! Proves an index against the tree and the snapshot that it is of.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::index::{Block, Index};
use crate::place::Place;
use crate::scan::index_tree;

/// Gives an entry of `tree` of which `index` tells something else than `stat`, or another inode of its copy in `snapshot`.
/// Nobody may change either tree meanwhile.
pub fn check_index(index: &Index, tree: &Path, snapshot: &Path) -> Result<Option<PathBuf>, Error> {
    let now = match index_tree(tree, snapshot) {
        // A directory that only one of them has.
        Err(Error::Io { path, source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(Some(path));
        }
        taken => taken?,
    };
    let (mut then, mut there) = (index.dirs(), now.dirs());
    loop {
        let different = match (then.next(), there.next()) {
            (None, None) => return Ok(None),
            (Some(then), Some(now)) if then.path == now.path => difference(&then, &now),
            (Some(block), None) | (None, Some(block)) | (Some(_), Some(block)) => {
                Some(relative(block.path))
            }
        };
        if let Some(name) = different {
            return Ok(Some(tree.join(name)));
        }
    }
}

fn relative(place: &[u8]) -> PathBuf {
    Place::from_bytes(place).path(Path::new(""), None)
}

/// The first thing that is different in one directory.
fn difference(then: &Block<'_>, now: &Block<'_>) -> Option<PathBuf> {
    let dir = relative(now.path);
    if !then.own().is_like_dir(&now.own()) {
        return Some(dir);
    }
    let (mut old, mut new) = (then.entries(), now.entries());
    loop {
        let name = match (old.next(), new.next()) {
            (None, None) => return None,
            (Some((a, old)), Some((b, new))) if a == b && old.agrees(&new) => continue,
            (_, Some((name, _))) | (Some((name, _)), None) => name,
        };
        return Some(dir.join(OsStr::from_bytes(name)));
    }
}
