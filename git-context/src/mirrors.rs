//! All mirrors together: how much they take, and which one goes first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::fetch::Size;
use crate::lock::{Lock, Mode, last_used};
use crate::mirror::remove_beside;

/// What pruning did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// The directories of removed mirrors, with the bytes they held.
    pub removed: Vec<(PathBuf, u64)>,
    /// The bytes that the remaining mirrors hold.
    pub kept: u64,
    /// How many could not be removed as jobs use them.
    pub in_use: usize,
}

/// A mirror on the disk, whatever repository it is of.
struct Found {
    dir: PathBuf,
    used: SystemTime,
    bytes: u64,
}

/// Removes the mirrors that were not used for the longest time until the rest takes at most `keep` bytes.
pub(crate) fn prune(mirrors: &Path, keep: u64) -> Result<Pruned> {
    let mut all = find(mirrors)?;
    all.sort_by_key(|found| found.used);
    let mut pruned =
        Pruned { kept: all.iter().map(|found| found.bytes).sum(), ..Pruned::default() };
    for found in all {
        if pruned.kept <= keep {
            break;
        }
        if remove(&found.dir)? {
            pruned.kept -= found.bytes;
            pruned.removed.push((found.dir, found.bytes));
        } else {
            pruned.in_use += 1;
        }
    }
    Ok(pruned)
}

/// Bytes that all mirrors hold.
pub(crate) fn size(mirrors: &Path) -> Result<u64> {
    Ok(find(mirrors)?.iter().map(|found| found.bytes).sum())
}

fn find(mirrors: &Path) -> Result<Vec<Found>> {
    let failed = || format!("list the mirrors in `{}`", mirrors.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(mirrors).map_err(Error::io(failed()))? {
        let entry = entry.map_err(Error::io(failed()))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let dir = entry.path();
        let used = last_used(&dir.join("use.lock"));
        all.push(Found { bytes: Size::of(&dir).bytes, dir, used });
    }
    Ok(all)
}

/// Removes a mirror unless somebody uses it.
fn remove(dir: &Path) -> Result<bool> {
    let locks = ["fetch.lock", "use.lock"].map(|name| dir.join(name));
    let Some(_fetching) = Lock::attempt(&locks[0], Mode::Alone)? else { return Ok(false) };
    let Some(_reading) = Lock::attempt(&locks[1], Mode::Alone)? else { return Ok(false) };
    let failed = || format!("remove the mirror `{}`", dir.display());
    let repo = dir.join("repo");
    if repo.exists() {
        remove_beside(dir)?;
        fs::rename(&repo, dir.join("old")).map_err(Error::io(failed()))?;
    }
    remove_beside(dir)?;
    // Removed while held: whoever waits for them sees that they have gone.
    for lock in &locks {
        fs::remove_file(lock).map_err(Error::io(failed()))?;
    }
    match fs::remove_dir(dir) {
        // Somebody begins to use it anew.
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(true),
        done => done.map(|()| true).map_err(Error::io(failed())),
    }
}
