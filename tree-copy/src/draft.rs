//! Writes an index: directories come in any order from several threads, and are sorted at the end.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::index::{self, Block, HEAD, MAGIC, checksum};
use crate::meta::Meta;
use crate::platform;
use crate::record::{Moment, Record};

/// An index that has not been written yet.
#[derive(Debug, Default)]
pub struct Draft {
    blocks: Vec<Vec<u8>>,
}

/// Where threads put the directories they have seen.
#[derive(Default)]
pub(crate) struct Drafting(Mutex<Vec<Vec<u8>>>);

impl Drafting {
    /// Adds the directory at `path` with its entries.
    pub(crate) fn add(&self, path: &[u8], own: &Record, entries: &mut [(CString, Record)]) {
        let block = encode(path, own, entries);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }

    /// Adds a directory that is as it was in another index.
    pub(crate) fn keep(&self, block: &Block<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block.bytes.to_vec());
    }

    pub(crate) fn finish(self) -> Draft {
        let mut blocks = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        blocks.sort_unstable_by(|a, b| index::path_at(a).cmp(index::path_at(b)));
        Draft { blocks }
    }
}

fn encode(path: &[u8], own: &Record, entries: &mut [(CString, Record)]) -> Vec<u8> {
    entries.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut names = Vec::new();
    let mut block = Vec::with_capacity(path.len() + (entries.len() + 1) * 110);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    block.extend_from_slice(&number(path.len()));
    block.extend_from_slice(path);
    own.encode((0, 0), &mut block);
    block.extend_from_slice(&number(entries.len()));
    block.extend_from_slice(&number(entries.iter().map(|(name, _)| name.as_bytes().len()).sum()));
    for (name, record) in entries {
        let name = name.as_bytes();
        let at = u32::try_from(names.len()).unwrap_or(u32::MAX);
        record.encode((at, u16::try_from(name.len()).unwrap_or(u16::MAX)), &mut block);
        names.extend_from_slice(name);
    }
    block.extend_from_slice(&names);
    block
}

impl Draft {
    /// How many entries the tree has, directories included.
    pub fn entries(&self) -> u64 {
        self.dirs()
            .map(|block| 1 + block.entries().filter(|(_, r)| !r.is_dir()).count() as u64)
            .sum()
    }

    pub(crate) fn dirs(&self) -> impl Iterator<Item = Block<'_>> {
        self.blocks.iter().filter_map(|block| Block::first(block))
    }

    /// Writes the index to `path`, over what is there. `note`, at most 4096 bytes, is remembered with it. Nothing is synced.
    /// Returns the newest ctime of an entry.
    pub fn write(&self, path: &Path, note: &[u8]) -> Result<Moment, Error> {
        let (head, newest) = self.head(note);
        let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
        let mut file =
            std::io::BufWriter::with_capacity(1 << 18, File::create(path).map_err(failed)?);
        file.write_all(&head)
            .and_then(|()| self.blocks.iter().try_for_each(|block| file.write_all(block)))
            .and_then(|()| file.flush())
            .map(|()| newest)
            .map_err(failed)
    }

    fn head(&self, note: &[u8]) -> (Vec<u8>, Moment) {
        let (mut newest, mut bytes, mut entries) = (Moment::default(), 0, 0);
        for block in self.dirs() {
            (bytes, entries) = (bytes + block.own().allocated, entries + 1);
            for (_, record) in block.entries().filter(|(_, record)| !record.is_dir()) {
                newest = newest.max(record.ctime);
                (bytes, entries) = (bytes + record.allocated, entries + 1);
            }
        }
        let length: usize = self.blocks.iter().map(Vec::len).sum();
        let pieces: Vec<&[u8]> = self.blocks.iter().map(Vec::as_slice).collect();
        let mut head = MAGIC.to_vec();
        for number in [newest.0 as u64, newest.1 as u64, entries, bytes, length as u64] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.extend_from_slice(&checksum(&pieces).to_le_bytes());
        head.extend_from_slice(&u32::try_from(note.len()).unwrap_or(u32::MAX).to_le_bytes());
        let sum = checksum(&[&head, note]);
        head.extend_from_slice(&sum.to_le_bytes());
        debug_assert_eq!(head.len(), HEAD);
        head.extend_from_slice(note);
        (head, newest)
    }
}

/// A number that differs, but for very bad luck, when the extended attributes do; never 0.
pub(crate) fn attributes_hash(dir: impl AsFd) -> rustix::io::Result<u64> {
    let mut hash = DefaultHasher::new();
    platform::attributes(dir.as_fd())?.hash(&mut hash);
    Ok(hash.finish().max(1))
}

/// The record of `name` in `dir`.
pub(crate) fn record_at(
    dir: impl AsFd,
    name: &CStr,
    home: u64,
    twin: u64,
) -> rustix::io::Result<Record> {
    Ok(Record::new(&Meta::at(dir, name)?, home, twin))
}
