//! What a step leaves that does not go by removing it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::platform::mounted;
use crate::slot::Slot;
use crate::tree;

/// Unmounts what a step has mounted in its tree or its directories. As anybody but root, nothing.
pub(crate) fn unmount(slot: &Slot) -> Result<()> {
    let dirs = ["", ".tmp", ".secrets", ".aside"];
    unmount_below(&dirs.map(|suffix| slot.beside(suffix)))
}

/// Unmounts what is mounted below the tree that was at `from`, but not what came with it, and in the directories beside it. As anybody
/// but root, nothing.
pub(crate) fn unmount_inside(slot: &Slot, from: &Path) -> Result<()> {
    let tree = real(&slot.place);
    let inside = slot.carry.inside(from).map(|place| tree.join(place));
    let dirs = ["", ".tmp", ".secrets", ".aside"].map(|suffix| slot.beside(suffix));
    unmount_except(&dirs, &[Some(tree), inside].into_iter().flatten().collect::<Vec<_>>())
}

/// Unmounts what is mounted at or below `dirs`. As anybody but root, nothing.
pub(crate) fn unmount_below(dirs: &[PathBuf]) -> Result<()> {
    unmount_except(dirs, &[])
}

/// Leaves what was mounted first at each of the places `stay`.
fn unmount_except(dirs: &[PathBuf], stay: &[PathBuf]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let dirs: Vec<_> = dirs.iter().map(|dir| real(dir)).collect();
    let points = mounted::points().map_err(Error::io("list what is mounted"))?;
    // What was mounted last lies on top.
    let stays =
        |number: usize, point: &PathBuf| stay.contains(point) && !points[..number].contains(point);
    let doomed = |(number, point): &(usize, &PathBuf)| {
        !stays(*number, point) && dirs.iter().any(|dir| point.starts_with(dir))
    };
    for (_, point) in points.iter().enumerate().rev().filter(doomed) {
        tracing::warn!(point = %point.display(), "unmounting what a step has mounted");
        mounted::unmount(point).map_err(Error::io(format!("unmount `{}`", point.display())))?;
    }
    Ok(())
}

/// As the system knows it; the last component may be anything.
fn real(dir: &Path) -> PathBuf {
    match (dir.parent().map(Path::canonicalize), dir.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => dir.to_owned(),
    }
}

/// Removes `path`, which is the home or stands beside it; what does not go is set aside, so that it is in nobody's way.
pub(crate) fn clear(slot: &Slot, path: &Path) -> Result<()> {
    // The common case: an empty directory, or nothing.
    if fs::remove_dir(path).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
    {
        return Ok(());
    }
    // First, or what is mounted there would be emptied.
    let unmounted = unmount_below(&[path.to_owned()]);
    let Err(first) = unmounted.and_then(|()| tree::remove(path)) else { return Ok(()) };
    let free = |n: &u32| slot.beside(&format!(".stuck-{n}"));
    let aside = (1..10_000).find(|n| free(n).symlink_metadata().is_err()).map(|n| free(&n));
    match aside.map(|aside| (tree::rename(path, &aside), aside)) {
        Some((Ok(()), aside)) => {
            let (path, aside) = (path.display(), aside.display());
            tracing::warn!(
                error = first.with_sources(),
                "`{path}` cannot be removed; it is `{aside}` now"
            );
            Ok(())
        }
        _ => Err(first),
    }
}
