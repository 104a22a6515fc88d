//! An index: what is known of every entry of a tree, kept in a file.

use std::fs;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use crate::error::Error;
use crate::record::{self, Moment, Record};

/// Changes whenever the format does.
pub(crate) const MAGIC: [u8; 8] = *b"tree\0\0\0\x01";

/// Bytes of the head before the note.
pub(crate) const HEAD: usize = 68;

/// The longest note.
const LONGEST_NOTE: usize = 4096;

/// What an index says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Entries of the tree, directories included.
    pub entries: u64,
    /// What the tree takes on the disk, in bytes, as if nothing were shared.
    pub bytes: u64,
    /// The newest ctime of an entry. A change after this moment cannot look as if nothing had happened.
    pub newest: Moment,
    /// Whatever its writer wanted to remember.
    pub note: Vec<u8>,
}

/// The stat of every entry of a tree at one moment, with the inodes of the tree's snapshot.
///
/// ```text
/// magic and version 8 | newest ctime 8+8 | entries 8 | bytes 8 | length of body 8 | checksum of body 8 | length of note 4 |
/// checksum of the head and the note 8 | note
/// then a block for each directory, by path:
///     length of path 4 | path, each name ending in a zero byte | the directory's own record |
///     entries 4 | length of names 4 | a record of 86 bytes for each entry, by name | names
/// ```
///
/// All numbers are little-endian.
#[derive(Debug)]
pub struct Index {
    /// What it says of itself.
    pub summary: Summary,
    body: Vec<u8>,
    blocks: Vec<Range<usize>>,
}

/// One directory of an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block<'a> {
    /// All of it, as it lies in the index.
    pub(crate) bytes: &'a [u8],
    pub(crate) path: &'a [u8],
    own: &'a [u8],
    records: &'a [u8],
    names: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block at the start of `bytes`; `None` when there is no whole one.
    pub(crate) fn first(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = number(bytes)?;
        let (path, rest) = rest.split_at_checked(length)?;
        let (own, rest) = rest.split_at_checked(record::BYTES)?;
        let (count, rest) = number(rest)?;
        let (length, rest) = number(rest)?;
        let (records, rest) = rest.split_at_checked(count.checked_mul(record::BYTES)?)?;
        let (names, rest) = rest.split_at_checked(length)?;
        let bytes = &bytes[..bytes.len() - rest.len()];
        let block = Self { bytes, path, own, records, names };
        block
            .records
            .chunks(record::BYTES)
            .all(|record| block.name(record).is_some())
            .then_some(block)
    }

    fn name(&self, record: &[u8]) -> Option<&'a [u8]> {
        let (at, length) = record::name_of(record);
        self.names.get(at..at.checked_add(length)?)
    }

    /// The directory itself.
    pub(crate) fn own(&self) -> Record {
        Record::decode(self.own).0
    }

    /// Its entries, by name.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'a [u8], Record)> {
        let named = move |bytes| Some((self.name(bytes)?, Record::decode(bytes).0));
        self.records.chunks(record::BYTES).filter_map(named)
    }

    /// The entry `name`.
    pub(crate) fn get(&self, name: &[u8]) -> Option<Record> {
        let at = |number: usize| &self.records[number * record::BYTES..][..record::BYTES];
        let (mut low, mut high) = (0, self.records.len() / record::BYTES);
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.name(at(middle))?.cmp(name) {
                std::cmp::Ordering::Equal => return Some(Record::decode(at(middle)).0),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number) as usize, rest))
}

/// A checksum that no accident keeps: not a few flipped bits, nor a page of zeroes, nor a missing end.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u64 {
    let mut sum = 0x9e37_79b9_7f4a_7c15_u64;
    let mut mix = |word: u64| {
        sum = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    };
    for piece in pieces {
        let (words, rest) = piece.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| mix(u64::from(*byte) + 1));
        mix(piece.len() as u64);
    }
    sum
}

impl Summary {
    /// Reads what the index at `path` says of itself, and no more of it. `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let Some(mut file) = open(path)? else { return Ok(None) };
        let mut head = Vec::new();
        Read::by_ref(&mut file)
            .take((HEAD + LONGEST_NOTE) as u64)
            .read_to_end(&mut head)
            .map_err(|e| failed(path, e))?;
        let parsed = Head::parse(&head).ok_or_else(|| Error::Damaged(path.to_owned()))?;
        Ok(Some(parsed.summary))
    }
}

struct Head {
    summary: Summary,
    body: usize,
    sum: u64,
    /// Its own length with the note.
    length: usize,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let long = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let (length, _) = number(&head[56..60])?;
        let note = rest.get(..length).filter(|_| length <= LONGEST_NOTE)?;
        if head[..8] != MAGIC || checksum(&[&head[..60], note]) != long(60) {
            return None;
        }
        let summary = Summary {
            newest: Moment(long(8) as i64, long(16) as i64),
            entries: long(24),
            bytes: long(32),
            note: note.to_vec(),
        };
        let body = usize::try_from(long(40)).ok()?;
        Some(Self { summary, body, sum: long(48), length: HEAD + length })
    }
}

impl Index {
    /// Reads the index at `path`; `None` when there is none. What is not what was written is [`Error::Damaged`].
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let Some(mut file) = open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| failed(path, e))?;
        Self::parse(bytes).map(Some).ok_or_else(|| Error::Damaged(path.to_owned()))
    }

    fn parse(mut bytes: Vec<u8>) -> Option<Self> {
        let head = Head::parse(&bytes)?;
        let body = bytes.get(head.length..)?;
        if body.len() != head.body {
            return None;
        }
        bytes.drain(..head.length);
        let (mut blocks, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let block = Block::first(&bytes[at..])?;
            blocks.push(at..at + block.bytes.len());
            at += block.bytes.len();
        }
        let pieces: Vec<_> = blocks.iter().map(|range| &bytes[range.clone()]).collect();
        let whole = checksum(&pieces) == head.sum;
        whole.then_some(Self { summary: head.summary, body: bytes, blocks })
    }

    /// The directory at `path`, as [`crate::place::Place::bytes`] gives it.
    pub(crate) fn dir(&self, path: &[u8]) -> Option<Block<'_>> {
        let at = |range: &Range<usize>| Block::first(&self.body[range.clone()]);
        let find = |range: &Range<usize>| path_at(&self.body[range.start..]).cmp(path);
        self.blocks.binary_search_by(find).ok().and_then(|found| at(&self.blocks[found]))
    }

    /// All directories, each before those in it.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = Block<'_>> {
        self.blocks.iter().filter_map(|range| Block::first(&self.body[range.clone()]))
    }
}

/// The path of the block that `bytes` begin with.
pub(crate) fn path_at(bytes: &[u8]) -> &[u8] {
    number(bytes).and_then(|(length, rest)| rest.get(..length)).unwrap_or_default()
}

fn open(path: &Path) -> Result<Option<fs::File>, Error> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Io { action: "read", path: path.to_owned(), source }
}
