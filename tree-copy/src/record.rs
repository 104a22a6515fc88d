//! One entry of an index: what `stat` told of it, in a fixed number of bytes.

use rustix::fs::FileType;

use crate::meta::Meta;

/// A moment by a filesystem's clock: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Moment(pub i64, pub i64);

/// Bytes of a record on the disk, its name's place and length included. The name itself comes besides.
pub(crate) const BYTES: usize = 86;

/// What an index knows of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: FileType,
    /// On the volume that the tree's root lies on. Of others nothing is believed.
    pub(crate) at_home: bool,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    nlink: u32,
    ino: u64,
    rdev: u64,
    size: u64,
    pub(crate) allocated: u64,
    mtime: (i64, i64),
    pub(crate) ctime: Moment,
    /// For a directory a hash of its attributes; else the inode of the same entry in the tree's snapshot. 0: not known.
    pub(crate) twin: u64,
}

impl Record {
    /// What `stat` said of an entry of a tree that lies on the volume `home`.
    pub(crate) fn new(meta: &Meta, home: u64, twin: u64) -> Self {
        Self {
            kind: meta.kind,
            at_home: meta.dev == home,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: u32::try_from(meta.nlink).unwrap_or(u32::MAX),
            ino: meta.ino,
            rdev: meta.rdev,
            size: meta.size,
            allocated: meta.allocated,
            mtime: meta.mtime,
            ctime: Moment(meta.ctime.0, meta.ctime.1),
            twin,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether nobody has touched the entry: contents, owner, mode, attributes and names are what they were.
    ///
    /// The space it takes is no part of that: filesystems allocate long after the last change.
    pub(crate) fn is_untouched(&self, now: &Self) -> bool {
        let twin_less = Self { twin: 0, allocated: 0, ..*self };
        self.at_home && twin_less == Self { twin: 0, allocated: 0, ..*now }
    }

    /// Whether what was noted of an entry is what is found now. Of a directory that is noted in itself.
    pub(crate) fn agrees(&self, now: &Self) -> bool {
        let same = || self.twin == now.twin && (!self.at_home || self.is_untouched(now));
        self.kind == now.kind && (self.is_dir() || same())
    }

    /// Whether the file that now has the name of this entry may be linked to this one's twin: no other file of the tree can
    /// then be, so that two do not become one.
    pub(crate) fn lends_its_twin(&self, now: &Self) -> bool {
        self.nlink < 2 || self.ino == now.ino
    }

    /// Whether two directories have the same owner, mode, time and attributes.
    pub(crate) fn is_like_dir(&self, other: &Self) -> bool {
        let about = |r: &Self| (r.kind, r.mode, r.uid, r.gid, r.mtime, r.twin);
        about(self) == about(other)
    }

    // The type of a raw mode differs between platforms.
    #[allow(clippy::useless_conversion)]
    pub(crate) fn encode(&self, name: (u32, u16), to: &mut Vec<u8>) {
        let flag = u32::from(self.at_home) << 31;
        let kind = u32::from(self.kind.as_raw_mode()) & 0o170_000;
        for number in [kind | self.mode | flag, self.uid, self.gid, self.nlink] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.ino, self.rdev, self.size, self.allocated, self.twin] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        for (seconds, nanoseconds) in [self.mtime, (self.ctime.0, self.ctime.1)] {
            to.extend_from_slice(&seconds.to_le_bytes());
            to.extend_from_slice(&(nanoseconds as u32).to_le_bytes());
        }
        to.extend_from_slice(&name.0.to_le_bytes());
        to.extend_from_slice(&name.1.to_le_bytes());
    }

    /// Reads what [`Record::encode`] wrote, with its name's place and length; `bytes` are [`BYTES`] long.
    pub(crate) fn decode(bytes: &[u8]) -> (Self, (usize, usize)) {
        let short = |at: usize| u32::from_le_bytes(array(bytes, at));
        let long = |at: usize| u64::from_le_bytes(array(bytes, at));
        let time = |at: usize| (i64::from_le_bytes(array(bytes, at)), i64::from(short(at + 8)));
        let first = short(0);
        let ctime = time(68);
        let record = Self {
            kind: FileType::from_raw_mode((first & 0o170_000) as _),
            at_home: first >> 31 == 1,
            mode: first & 0o7777,
            uid: short(4),
            gid: short(8),
            nlink: short(12),
            ino: long(16),
            rdev: long(24),
            size: long(32),
            allocated: long(40),
            twin: long(48),
            mtime: time(56),
            ctime: Moment(ctime.0, ctime.1),
        };
        (record, name_of(bytes))
    }
}

/// Place and length of the name of an encoded record.
pub(crate) fn name_of(bytes: &[u8]) -> (usize, usize) {
    let at = u32::from_le_bytes(array(bytes, 80));
    (at as usize, u16::from_le_bytes(array(bytes, 84)).into())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has that length")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let fd = crate::place::open_root(dir.path()).unwrap();
        let mut meta = Meta::of(&fd).unwrap();
        for (kind, time) in [(FileType::Directory, -1), (FileType::BlockDevice, i64::MAX)] {
            (meta.kind, meta.mtime, meta.mode) = (kind, (time, 999_999_999), 0o7777);
            let record = Record::new(&meta, meta.dev, u64::MAX);
            let mut bytes = Vec::new();
            record.encode((7, 9), &mut bytes);
            assert_eq!(bytes.len(), BYTES);
            assert_eq!(Record::decode(&bytes), (record, (7, 9)));
        }
    }
}
