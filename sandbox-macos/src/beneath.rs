//! Work inside a tree that a build user has filled, without following its symlinks.
//!
//! Root walks component by component, each opened relative to the one before and never through a symlink,
//! so no planted link leads it out of the tree. No process of the build user lives meanwhile.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use obuilder_core::step::Owner;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode};
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

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a tree, or a directory beside it, to find things below.
pub(crate) fn open_root(root: &Path) -> Result<OwnedFd> {
    rustix::fs::open(root, DIRECTORY, Mode::empty())
        .map_err(Error::io(format!("open `{}`", root.display())))
}

/// Finds the directory that holds `relative`, below `root`.
pub(crate) fn spot(
    root: &OwnedFd,
    relative: &Path,
    mut missing: Missing<'_>,
) -> Result<Option<Spot>> {
    let cloned = root.try_clone();
    let mut dir = cloned.map_err(Error::io("copy a descriptor"))?;
    let mut parts = relative.components();
    let name = match parts.next_back() {
        Some(Component::Normal(name)) => name.to_owned(),
        _ => return Err(Error::NotADirectory(relative.to_owned())),
    };
    let mut walked = PathBuf::new();
    for part in parts {
        walked.push(part);
        let part = part.as_os_str();
        let mut opened = open_dir(&dir, part);
        if let (Err(Errno::NOENT), Missing::Make(owner, made)) = (&opened, &mut missing) {
            make(&dir, part, *owner)
                .map_err(Error::io(format!("make `{}` in the tree", walked.display())))?;
            made.push(walked.clone());
            opened = open_dir(&dir, part);
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

fn open_dir(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::fs::openat(dir, name, DIRECTORY, Mode::empty());
    lifted(dir, || match open() {
        Err(Errno::ACCESS) => {
            let Some(mode) = closed_dir(dir, name)? else { return Err(Errno::ACCESS) };
            chmod(dir, name, mode | 0o700)?;
            let opened = open();
            chmod(dir, name, mode)?;
            opened
        }
        opened => opened,
    })
}

/// Does `act` in `dir`; a mode that keeps its owner from that is lifted meanwhile. Of no use to root, who is kept from nothing.
fn lifted<T>(dir: &OwnedFd, act: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match act() {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(dir)?.st_mode) & PERMISSIONS;
    if mode.contains(Mode::RWXU) {
        return Err(Errno::ACCESS);
    }
    rustix::fs::fchmod(dir, mode | Mode::RWXU)?;
    let done = act();
    rustix::fs::fchmod(dir, mode)?;
    done
}

/// All bits that can be changed.
const PERMISSIONS: Mode = Mode::from_raw_mode(0o7777);

/// The mode of `name`, if it is a directory that is closed to its owner.
fn closed_dir(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<RawMode>> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let closed = FileType::from_raw_mode(stat.st_mode).is_dir() && stat.st_mode & 0o700 != 0o700;
    Ok(closed.then_some(stat.st_mode & 0o7777))
}

/// Follows symlinks, so only for what [`closed_dir`] has seen.
fn chmod(dir: impl AsFd, name: impl rustix::path::Arg, mode: RawMode) -> rustix::io::Result<()> {
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
}

fn make(dir: &OwnedFd, name: &OsStr, owner: Option<Owner>) -> rustix::io::Result<()> {
    lifted(dir, || rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)))?;
    give(dir, name, owner)
}

/// Changes the owner of `name` in `dir`, never through a symlink.
pub(crate) fn give(dir: &OwnedFd, name: &OsStr, owner: Option<Owner>) -> rustix::io::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

impl Spot {
    /// What is there, be it a dangling symlink; `None` only if it is certain that nothing is.
    pub(crate) fn found(&self) -> rustix::io::Result<Option<FileType>> {
        let stat = || rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        match lifted(&self.dir, stat) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what is there; with [`AtFlags::REMOVEDIR`], an empty directory.
    pub(crate) fn unlink(&self, flags: AtFlags) -> rustix::io::Result<()> {
        lifted(&self.dir, || rustix::fs::unlinkat(&self.dir, &self.name, flags))
    }

    /// Makes the file, which must be new.
    pub(crate) fn create(&self, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        lifted(&self.dir, || rustix::fs::openat(&self.dir, &self.name, flags, mode))
    }

    /// Makes an empty directory here.
    pub(crate) fn make_dir(&self) -> rustix::io::Result<()> {
        make(&self.dir, &self.name, None)
    }

    /// Renames what is there to another name in its directory.
    pub(crate) fn rename(&self, name: &OsStr) -> rustix::io::Result<()> {
        lifted(&self.dir, || rustix::fs::renameat(&self.dir, &self.name, &self.dir, name))
    }

    /// Renames what is there to a path outside the tree.
    pub(crate) fn rename_out(&self, to: &Path) -> rustix::io::Result<()> {
        lifted(&self.dir, || {
            let rename = || rustix::fs::renameat(&self.dir, &self.name, CWD, to);
            match rename() {
                // A directory that moves changes its `..`.
                Err(Errno::ACCESS) => {
                    let closed = closed_dir(&self.dir, &self.name)?;
                    let Some(mode) = closed else { return Err(Errno::ACCESS) };
                    chmod(&self.dir, &self.name, mode | 0o700)?;
                    match rename() {
                        Ok(()) => chmod(CWD, to, mode),
                        failed => chmod(&self.dir, &self.name, mode).and(failed),
                    }
                }
                renamed => renamed,
            }
        })
    }

    /// Renames a path outside the tree to here.
    pub(crate) fn rename_in(&self, from: &Path) -> rustix::io::Result<()> {
        lifted(&self.dir, || rustix::fs::renameat(CWD, from, &self.dir, &self.name))
    }
}
