//! Open files: opening, making, reading, writing, and what else is done with a descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fuser::{BackingId, FopenFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::call::Caller;
use crate::core::{Call, entry_name};
use crate::meta::Meta;
use crate::node::Node;
use crate::opened::OpenFile;
use crate::os::{self, credentials};

/// A group that nothing belongs to.
const NO_GROUP: u32 = 0x7fff_fffe;

/// A file that was opened.
pub(crate) struct Opening {
    pub(crate) file: u64,
    pub(crate) flags: FopenFlags,
    pub(crate) backing: Option<Arc<BackingId>>,
}

/// A file that was made and opened.
pub(crate) struct Made {
    pub(crate) node: Arc<Node>,
    pub(crate) meta: Meta,
    pub(crate) lasts: Duration,
    pub(crate) opening: Opening,
}

/// Registers an open file with the kernel, which then reads and writes it by itself.
pub(crate) trait Register: Fn(BorrowedFd<'_>) -> std::io::Result<BackingId> {}
impl<F: Fn(BorrowedFd<'_>) -> std::io::Result<BackingId>> Register for F {}

/// With whose rights something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The caller's: set-user-id is to go.
    Caller,
    /// Those of whose tree it is, as the kernel does not say who wrote to its memory.
    Owner,
    Server,
}

impl Call<'_> {
    /// Opens a file; the kernel has checked that the caller may.
    pub(crate) fn open(&self, number: u64, flags: i32, register: impl Register) -> Result<Opening> {
        let node = self.node(number)?;
        let flags = OFlags::from_bits_retain(flags as _);
        let fd = node.open((flags & OFlags::RWMODE) | OFlags::NOFOLLOW)?;
        if flags.contains(OFlags::TRUNC) {
            credentials::as_caller(self.caller, || rustix::fs::ftruncate(&fd, 0))?;
        }
        self.opened(node, fd, flags, register)
    }

    /// Makes a file, if there is none yet, and opens it.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: (u32, u32),
        flags: i32,
        register: impl Register,
    ) -> Result<Made> {
        let name = entry_name(name)?;
        let parent = self.node(parent)?;
        let dir = self.descriptor(&parent)?;
        let flags = OFlags::from_bits_retain(flags as _);
        let how = (flags & (OFlags::RWMODE | OFlags::EXCL | OFlags::TRUNC))
            | (OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC
                | OFlags::NONBLOCK
                | OFlags::NOCTTY);
        credentials::set_umask(mode.1)?;
        let bits = Mode::from_raw_mode((mode.0 & 0o7777) as _);
        let make = || rustix::fs::openat(&dir, &name, how, bits);
        let fd = if mode.0 & 0o2000 != 0 {
            credentials::as_caller_in_groups(self.caller, make)?
        } else {
            credentials::as_caller(self.caller, make)?
        };
        let meta = os::meta::of_fd(fd.as_fd())?;
        if meta.kind() != fuser::FileType::RegularFile {
            return Err(Errno::STALE);
        }
        let view = &parent.view;
        let handle = || os::handle::Handle::of_fd(fd.as_fd(), &meta, &view.anchors);
        let node = self.core.nodes.enter(view, &meta, &self.core.metrics, handle)?;
        node.found_at(&parent, &name);
        if parent.is_top() {
            self.core.first_names.told(&name, view.index);
        }
        let number = node.number;
        let opening = self
            .opened(node.clone(), fd, flags, register)
            .inspect_err(|_| self.core.nodes.forget(number, 1))?;
        Ok(Made { node, meta, lasts: self.names_last(&parent), opening })
    }

    fn opened(
        &self,
        node: Arc<Node>,
        fd: OwnedFd,
        flags: OFlags,
        register: impl Register,
    ) -> Result<Opening> {
        let fd = Arc::new(fd);
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        let mut state = node.state();
        let backing = match state.backing.upgrade() {
            Some(backing) => Some(backing),
            None if state.plain > 0 || !self.core.passthrough.load(Relaxed) => None,
            None if writes && os::meta::of_fd(fd.as_fd())?.runs_as_another() => None,
            None => self.register(&fd, register),
        };
        if backing.is_some() && writes {
            self.take_privileges(&fd)?;
        }
        if let Some(backing) = &backing {
            state.backing = Arc::downgrade(backing);
        } else {
            state.plain += 1;
        }
        state.open = Arc::downgrade(&fd);
        drop(state);
        self.core.metrics.passthrough.add(backing.is_some());
        let file = self.core.files.add(OpenFile { fd, node, backing: backing.clone() });
        // The kernel refuses to keep a cache of what it reads by itself: that file has its own.
        let keep =
            if backing.is_some() { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE };
        let flags = keep | FopenFlags::FOPEN_NOFLUSH;
        Ok(Opening { file, flags, backing })
    }

    fn register(&self, fd: &OwnedFd, register: impl Register) -> Option<Arc<BackingId>> {
        // The kernel then writes with the identity of this moment, and takes set-user-id away as it would for the caller.
        let ours = || {
            register(fd.as_fd()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        match credentials::as_caller(self.caller, ours) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(error) => {
                // One refusal is enough: the trees' filesystem is stacked too high, or the kernel cannot do it.
                if self.core.passthrough.swap(false, Relaxed) {
                    tracing::info!(%error, "the kernel does not read and write files here by itself");
                }
                None
            }
        }
    }

    /// What the kernel writes by itself it writes as root, who keeps set-user-id: so that goes when another opens the
    /// file to write while the kernel has it, instead of when it is first written.
    fn take_privileges(&self, fd: &OwnedFd) -> Result<()> {
        let meta = os::meta::of_fd(fd.as_fd())?;
        if self.caller.uid == 0 || !meta.runs_as_another() {
            return Ok(());
        }
        // Set-group-id without the right to execute is another thing, and stays for members of the group.
        let stays = meta.mode & 0o010 == 0 && meta.gid == self.caller.gid;
        let kept = meta.mode & if stays { 0o3777 } else { 0o1777 };
        os::special::change_mode(fd.as_fd(), kept)
    }

    /// Reads.
    pub(crate) fn read(&self, file: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let open = self.core.files.get(file)?;
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&open.fd, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes.
    pub(crate) fn write(&self, file: u64, offset: u64, data: &[u8], writer: Writer) -> Result<u32> {
        let open = self.core.files.get(file)?;
        open.node.view.counts.add(self.operation);
        let write = || rustix::io::pwrite(&open.fd, data, offset);
        let written = match (writer, open.node.view.owner) {
            (Writer::Caller, _) => credentials::as_caller(self.caller, write),
            (Writer::Owner, Some(uid)) => {
                credentials::as_caller(Caller { uid, gid: NO_GROUP, ..self.caller }, write)
            }
            _ => write(),
        }?;
        Ok(written as u32)
    }

    /// Brings a file to the disk.
    pub(crate) fn fsync(&self, file: u64, data_only: bool) -> Result<()> {
        let open = self.core.files.get(file)?;
        sync(&open.fd, data_only)
    }

    /// Brings a directory to the disk.
    pub(crate) fn fsyncdir(&self, directory: u64, data_only: bool) -> Result<()> {
        let open = self.core.directories.get(directory)?;
        let listing = open.listing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sync(listing.fd(), data_only)
    }

    /// Reserves or frees space, as the caller: written data takes set-user-id away.
    pub(crate) fn fallocate(&self, file: u64, offset: u64, length: u64, mode: i32) -> Result<()> {
        let open = self.core.files.get(file)?;
        let work = || os::special::allocate(open.fd.as_fd(), mode as u32, offset, length);
        credentials::as_caller(self.caller, work)
    }

    /// Looks for data or a hole.
    pub(crate) fn lseek(&self, file: u64, offset: i64, whence: i32) -> Result<i64> {
        let open = self.core.files.get(file)?;
        os::special::seek(&open.fd, offset, whence)
    }

    /// Copies within the filesystem.
    pub(crate) fn copy_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Result<u32> {
        let (source, target) = (self.core.files.get(from.0)?, self.core.files.get(to.0)?);
        let length = usize::try_from(length.min(1 << 30)).unwrap_or(1 << 30);
        let copied = credentials::as_caller(self.caller, || {
            os::special::copy_range((&source.fd, from.1), (&target.fd, to.1), length)
        })?;
        Ok(copied as u32)
    }
}

fn sync(fd: &OwnedFd, data_only: bool) -> Result<()> {
    if data_only { os::special::sync_data(fd) } else { rustix::fs::fsync(fd) }
}
