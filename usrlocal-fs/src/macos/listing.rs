//! Reading a directory from any place in it: the list is taken when reading begins, and positions count in it.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Result;

/// An entry as the directory has it.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a CStr,
    pub(crate) inode: u64,
    pub(crate) kind: FileType,
    /// Where the entry after this one begins.
    pub(crate) next: u64,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Listing {
    fd: OwnedFd,
    entries: Vec<(CString, u64, FileType)>,
}

impl Listing {
    /// Lists the directory that `fd` is open on.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, entries: Vec::new() }
    }

    /// The open directory.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Shows the entries from `offset` on to `take` until it says `false` or there are no more.
    pub(crate) fn read(
        &mut self,
        offset: u64,
        mut take: impl FnMut(Entry<'_>) -> Result<bool>,
    ) -> Result<()> {
        if offset == 0 {
            self.entries.clear();
            for entry in Dir::read_from(&self.fd)? {
                let entry = entry?;
                self.entries.push((entry.file_name().to_owned(), entry.ino(), entry.file_type()));
            }
        }
        let entries = self.entries.iter().enumerate().skip(offset as usize);
        for (index, (name, inode, kind)) in entries {
            if !take(Entry { name, inode: *inode, kind: *kind, next: index as u64 + 1 })? {
                break;
            }
        }
        Ok(())
    }
}
