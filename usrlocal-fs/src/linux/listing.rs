//! Reading a directory from any place in it, by the filesystem's own positions.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Result;

const BUFFER: usize = 32 * 1024;

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
    at: u64,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Listing {
    /// Lists the directory that `fd` is open on.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, at: 0, buffer: Vec::new() }
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
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER, MaybeUninit::uninit());
        }
        if offset != self.at || offset == 0 {
            seek(&self.fd, offset)?;
        }
        self.at = offset;
        let mut entries = RawDir::new(self.fd.as_fd(), &mut self.buffer);
        let mut at = offset;
        let outcome = loop {
            let entry = match entries.next() {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(entry)) => entry,
            };
            let next = entry.next_entry_cookie();
            let shown = Entry {
                name: entry.file_name(),
                inode: entry.ino(),
                kind: entry.file_type(),
                next,
            };
            match take(shown) {
                Ok(true) => at = next,
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // The descriptor stands after the whole buffer that was read, not after the last entry that was taken.
        if !entries.is_buffer_empty() || outcome.is_err() {
            seek(&self.fd, at)?;
        }
        self.at = at;
        outcome
    }
}

fn seek(fd: &OwnedFd, offset: u64) -> Result<()> {
    rustix::fs::seek(fd, SeekFrom::Start(offset)).map(|_| ())
}
