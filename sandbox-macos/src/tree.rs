//! Whole trees: change their owner, rename and remove them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use obuilder_core::step::Owner;

use crate::error::{Error, Result};

/// Gives `path` and all in it to `owner`, unless `path` itself is theirs already.
pub(crate) fn give(path: &Path, owner: Option<Owner>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let action = || format!("give `{}` to uid {}", path.display(), owner.uid);
    let found = path.symlink_metadata().map_err(Error::io(action()))?;
    if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    chown_tree(path, owner.uid, owner.gid).map_err(Error::io(action()))
}

fn chown_tree(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_tree(&entry?.path(), uid, gid)?;
        }
    }
    lchown(path, Some(uid), Some(gid))
}

/// Removes `path` and all in it, if it is there, whatever the modes of its directories.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match remove_tree(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove `{}`", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return fs::remove_file(path);
    }
    // The common case: an empty directory.
    if fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    if fs::read_dir(path).is_err() {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if let Err(error) = remove_tree(&entry) {
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Err(error);
            }
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
            remove_tree(&entry)?;
        }
    }
    fs::remove_dir(path)
}

/// Renames a directory; a mode that keeps its owner from writing (a directory that moves changes its `..`)
/// is lifted meanwhile.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let Err(error) = fs::rename(from, to) else { return Ok(()) };
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(error);
    }
    let found = from.symlink_metadata()?;
    let mode = found.mode() & 0o7777;
    if !found.is_dir() || mode & 0o700 == 0o700 {
        return Err(error);
    }
    fs::set_permissions(from, Permissions::from_mode(mode | 0o700))?;
    let renamed = fs::rename(from, to);
    let now = if renamed.is_ok() { to } else { from };
    fs::set_permissions(now, Permissions::from_mode(mode))?;
    renamed
}
