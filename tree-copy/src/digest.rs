//! Two short texts for a tree: one that is cheap and changes whenever the tree may have changed, and one that says what
//! the tree holds.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::platform;
use crate::queue;
use crate::walk::{Inspect, Root, walk};

/// Size of the pieces in which files are read.
const PIECE: usize = 128 * 1024;

/// Hash of what `stat` tells of every entry (name, inode, kind, mode, owner, size, times of change), as hexadecimal
/// digits. Nothing is read, so it is cheap; a tree with the same stamp has not been changed. `cancel` is asked now and then.
pub fn stamp_tree(
    path: &Path,
    cancel: Option<&(dyn Fn() -> bool + Sync)>,
) -> Result<String, Error> {
    hash(path, Depth::Stat, cancel)
}

/// Hash of what the tree holds: names, kinds, contents, modes, owners, link targets and extended attributes, as
/// hexadecimal digits. Times and inodes are no part of it, so a faithful copy has the same digest.
pub fn digest_tree(
    path: &Path,
    cancel: Option<&(dyn Fn() -> bool + Sync)>,
) -> Result<String, Error> {
    hash(path, Depth::Contents, cancel)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Stat,
    Contents,
}

fn hash(
    path: &Path,
    depth: Depth,
    cancel: Option<&(dyn Fn() -> bool + Sync)>,
) -> Result<String, Error> {
    let hasher = Hasher { root: Root::open(path)?, depth, cancel, records: Mutex::default() };
    hasher.visit_one(hasher.root.fd(), &Place::root(), c".", FileType::Directory)?;
    walk(&hasher, hasher.root.start()?, queue::default_threads())?;
    let mut records = hasher.records.into_inner().unwrap_or_else(PoisonError::into_inner);
    records.sort_unstable();
    let mut all = Sha256::new();
    for (place, name, record) in records {
        field(&mut all, &place);
        field(&mut all, name.to_bytes());
        all.update(record);
    }
    Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Adds `bytes` so that no other sequence of fields gives the same hash.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Path of the directory, name in it, and hash of all else.
type Record = (Arc<Vec<u8>>, CString, [u8; 32]);

struct Hasher<'a> {
    root: Root<'a>,
    depth: Depth,
    cancel: Option<&'a (dyn Fn() -> bool + Sync)>,
    records: Mutex<Vec<Record>>,
}

impl Hasher<'_> {
    fn visit_one(
        &self,
        dir: BorrowedFd<'_>,
        place: &Place,
        name: &CStr,
        kind: FileType,
    ) -> Result<(), Error> {
        let record = self.record(dir, place, name, kind)?;
        let path = Arc::new(place.bytes());
        self.add([(path, name.to_owned(), record)]);
        Ok(())
    }

    fn add(&self, records: impl IntoIterator<Item = Record>) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).extend(records);
    }

    fn record(
        &self,
        dir: BorrowedFd<'_>,
        place: &Place,
        name: &CStr,
        kind: FileType,
    ) -> Result<[u8; 32], Error> {
        let failed = |e| self.error("read", place, Some(name), e);
        let mut hash = Sha256::new();
        match (self.depth, kind) {
            (Depth::Stat, _) => stat(&mut hash, &Meta::at(dir, name).map_err(failed)?),
            (Depth::Contents, FileType::RegularFile | FileType::Directory) => {
                self.open_file(&mut hash, dir, name).map_err(failed)?;
            }
            (Depth::Contents, _) => named_file(&mut hash, dir, name).map_err(failed)?,
        }
        Ok(hash.finalize().into())
    }

    fn open_file(
        &self,
        hash: &mut Sha256,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let meta = Meta::of(&file)?;
        what_stays(hash, &meta);
        for (name, value) in platform::attributes(file.as_fd())? {
            field(hash, name.to_bytes());
            field(hash, &value);
        }
        if meta.kind != FileType::RegularFile {
            return Ok(());
        }
        let mut buffer = vec![0; PIECE.min(usize::try_from(meta.size).unwrap_or(PIECE) + 1)];
        loop {
            match rustix::io::read(&file, &mut *buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => hash.update(&buffer[..read]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if self.cancelled() {
                return Ok(());
            }
        }
    }
}

fn stat(hash: &mut Sha256, meta: &Meta) {
    what_stays(hash, meta);
    for (seconds, nanoseconds) in [meta.mtime, meta.ctime] {
        hash.update(seconds.to_le_bytes());
        hash.update(nanoseconds.to_le_bytes());
    }
    hash.update(meta.dev.to_le_bytes());
    hash.update(meta.ino.to_le_bytes());
    hash.update(meta.size.to_le_bytes());
}

/// What a faithful copy shares with its original, besides contents and names.
fn what_stays(hash: &mut Sha256, meta: &Meta) {
    let size = if meta.kind == FileType::RegularFile { meta.size } else { 0 };
    let device = match meta.kind {
        FileType::CharacterDevice | FileType::BlockDevice => meta.rdev,
        _ => 0,
    };
    for number in [u64::from(meta.kind.as_raw_mode()), meta.mode.into(), meta.uid.into()] {
        hash.update(number.to_le_bytes());
    }
    for number in [meta.gid.into(), size, device] {
        hash.update(number.to_le_bytes());
    }
}

fn named_file(hash: &mut Sha256, dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let meta = Meta::at(dir, name)?;
    what_stays(hash, &meta);
    if meta.kind == FileType::Symlink {
        field(hash, rustix::fs::readlinkat(dir, name, Vec::new())?.to_bytes());
    }
    for (name, value) in platform::attributes_of_name(dir, name)? {
        field(hash, name.to_bytes());
        field(hash, &value);
    }
    Ok(())
}

impl Inspect for Hasher<'_> {
    fn root(&self) -> &Root<'_> {
        &self.root
    }

    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        let path = Arc::new(place.bytes());
        let mut records = Vec::with_capacity(entries.len());
        for Entry { name, kind, .. } in entries {
            let record = self.record(dir.as_fd(), place, name, *kind)?;
            records.push((path.clone(), name.clone(), record));
        }
        self.add(records);
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_some_and(|cancel| cancel())
    }
}
