//! Takes devices out of an imported image.
//!
//! The tree is given to the build user, and a device opens whatever it stands for, such as the host's disk.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Result;

/// Removes every device in the directory `root` and below it; returns where in it they were.
///
/// Only root makes devices, so for others there is nothing to do.
pub fn remove_devices(root: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    if rustix::process::geteuid().is_root() {
        remove_in(&open_dir(CWD, root)?, Path::new(""), &mut removed)?;
    }
    Ok(removed)
}

/// Goes down by descriptors, for paths may be longer than `PATH_MAX`.
fn remove_in(dir: &OwnedFd, place: &Path, removed: &mut Vec<PathBuf>) -> Result<()> {
    for (name, kind) in interesting(dir)? {
        let path = place.join(OsStr::from_bytes(name.to_bytes()));
        if kind == FileType::Directory {
            remove_in(&open_dir(dir, &*name)?, &path, removed)?;
        } else {
            rustix::fs::unlinkat(dir, &*name, AtFlags::empty())?;
            removed.push(path);
        }
    }
    Ok(())
}

/// The directories and devices in `dir`.
fn interesting(dir: &OwnedFd) -> Result<Vec<(CString, FileType)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = match entry.file_type() {
            // Some filesystems do not say in the listing what an entry is.
            FileType::Unknown => kind_of(dir, name)?,
            known => known,
        };
        let wanted = match kind {
            FileType::Directory => name != c"." && name != c"..",
            kind => matches!(kind, FileType::BlockDevice | FileType::CharacterDevice),
        };
        if wanted {
            all.push((name.to_owned(), kind));
        }
    }
    Ok(all)
}

fn kind_of(dir: &OwnedFd, name: &CStr) -> Result<FileType> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn open_dir(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}
