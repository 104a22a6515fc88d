//! The entries of one directory.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Result;

use crate::meta::Meta;

/// One name in a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
    /// What the listing says; on a mount point that of the directory below.
    pub(crate) inode: u64,
}

/// All entries of the open directory `dir` but `.` and `..`, in the order of their inodes: on most filesystems the order
/// in which they lie on the disk.
pub(crate) fn entries(dir: impl AsFd) -> Result<Vec<Entry>> {
    let dir = dir.as_fd();
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = known_kind(dir, name, entry.file_type())?;
        all.push(Entry { name: name.to_owned(), kind, inode: entry.ino() });
    }
    all.sort_unstable_by_key(|entry| entry.inode);
    Ok(all)
}

/// Some filesystems do not say in the listing what an entry is.
fn known_kind(dir: impl AsFd, name: &CStr, said: FileType) -> Result<FileType> {
    match said {
        FileType::Unknown => Meta::at(dir, name).map(|meta| meta.kind),
        known => Ok(known),
    }
}
