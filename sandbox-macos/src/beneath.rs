//! Work inside a tree that a build user has filled, without following its symlinks.
//!
//! Root walks component by component, each opened relative to the one before and never through a symlink,
//! so no planted link leads it out of the tree. No process of the build user lives meanwhile.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use obuilder_core::step::Owner;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A directory in a tree, and a name in it.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) dir: OwnedFd,
    pub(crate) name: OsString,
}

/// What to do about missing parents.
pub(crate) enum Missing<'a> {
    /// Give up: [`spot`] returns `None`.
    Absent,
    /// Make them, give them to the owner, and note them here (relative, outermost first).
    Make(Option<Owner>, &'a mut Vec<PathBuf>),
}

/// Finds the directory that holds `relative`, below `root`.
pub(crate) fn spot(root: &Path, relative: &Path, mut missing: Missing<'_>) -> Result<Option<Spot>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open_root = rustix::fs::open(root, flags, Mode::empty());
    let mut dir = open_root.map_err(Error::io(format!("open `{}`", root.display())))?;
    let mut parts = relative.components();
    let name = match parts.next_back() {
        Some(Component::Normal(name)) => name.to_owned(),
        _ => return Err(Error::NotADirectory(relative.to_owned())),
    };
    let mut walked = PathBuf::new();
    for part in parts {
        walked.push(part);
        let part = part.as_os_str();
        let mut opened = rustix::fs::openat(&dir, part, flags, Mode::empty());
        if let (Err(Errno::NOENT), Missing::Make(owner, made)) = (&opened, &mut missing) {
            make(&dir, part, *owner)
                .map_err(Error::io(format!("make `{}` in the tree", walked.display())))?;
            made.push(walked.clone());
            opened = rustix::fs::openat(&dir, part, flags, Mode::empty());
        }
        dir = match opened {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::MLINK) => {
                return Err(Error::NotADirectory(walked));
            }
            Err(error) => {
                return Err(Error::io(format!("open `{}` in the tree", walked.display()))(error));
            }
        };
    }
    Ok(Some(Spot { dir, name }))
}

fn make(dir: &OwnedFd, name: &OsStr, owner: Option<Owner>) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
    give(dir, name, owner)
}

/// Changes the owner of `name` in `dir`, never through a symlink.
pub(crate) fn give(dir: &OwnedFd, name: &OsStr, owner: Option<Owner>) -> rustix::io::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

impl Spot {
    /// Whether something is there, be it a dangling symlink.
    pub(crate) fn exists(&self) -> bool {
        rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether a directory is there, not a symlink to one.
    pub(crate) fn is_dir(&self) -> bool {
        let stat = rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
    }
}
