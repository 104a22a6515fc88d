//! Writes the entries of a layer, the same bytes for the same entries.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::FileType;
use tar::{EntryType, Header};

use super::changes::Change;
use super::listing::{Listing, Node, Xattrs};
use crate::error::{Error, Result};

/// Names up to this length need no extended header.
const SHORT: usize = 100;
/// The largest number in seven octal digits.
const LARGEST_ID: u32 = 0o7_777_777;
/// The largest number in eleven octal digits.
const LARGEST_SIZE: u64 = 0o77_777_777_777;

/// A tar archive being written.
pub(super) struct TarWriter<W> {
    out: W,
    owner: Option<(u32, u32)>,
}

impl<W: Write> TarWriter<W> {
    /// Everything in it belongs to `owner`, unless that is `None`.
    pub(super) fn new(out: W, owner: Option<(u32, u32)>) -> Self {
        Self { out, owner }
    }

    /// Writes one entry of a layer of `tree`; `cancelled` is asked now and then.
    pub(super) fn change(
        &mut self,
        tree: &Listing,
        change: &Change<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let failed = |e: io::Error| Error::io("write a layer", e);
        match change {
            Change::Hide(path) => self.hide(path).map_err(failed),
            Change::Link(node, target) => self.link(node, target).map_err(failed),
            Change::Put(node) => {
                let xattrs = tree.xattrs(node)?;
                self.head(node, &xattrs).map_err(failed)?;
                if node.kind != FileType::RegularFile {
                    return Ok(());
                }
                let file = File::from(tree.open(node)?);
                self.contents(file, node.size, cancelled).map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => Error::Cancelled,
                    _ => Error::path("put into a layer", &tree.path(node), error),
                })
            }
        }
    }

    /// Writes the end; gives back what was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        Ok(self.out)
    }

    fn hide(&mut self, path: &[u8]) -> io::Result<()> {
        let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let mark = [&path[..at], b".wh.", &path[at..]].concat();
        let mut header = empty(EntryType::Regular, 0o600);
        let mut extended = Vec::new();
        name(&mut header.as_old_mut().name, "path", &mark, &mut extended);
        self.write(header, &extended)
    }

    fn link(&mut self, node: &Node, target: &[u8]) -> io::Result<()> {
        let (mut header, mut extended) = self.common(node, &node.path);
        header.set_entry_type(EntryType::Link);
        name(&mut header.as_old_mut().linkname, "linkpath", target, &mut extended);
        self.write(header, &extended)
    }

    fn head(&mut self, node: &Node, xattrs: &Xattrs) -> io::Result<()> {
        let mut path = node.path.clone();
        if node.kind == FileType::Directory {
            path.extend_from_slice(if path.is_empty() { b"./" } else { b"/" });
        }
        let (mut header, mut extended) = self.common(node, &path);
        header.set_entry_type(match node.kind {
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            _ => EntryType::Regular,
        });
        if node.kind == FileType::Symlink {
            name(&mut header.as_old_mut().linkname, "linkpath", &node.target, &mut extended);
        }
        if matches!(node.kind, FileType::CharacterDevice | FileType::BlockDevice) {
            header.set_device_major(rustix::fs::major(node.device as _))?;
            header.set_device_minor(rustix::fs::minor(node.device as _))?;
        }
        if node.size > LARGEST_SIZE {
            record(&mut extended, b"size", node.size.to_string().as_bytes());
        } else {
            header.set_size(node.size);
        }
        for (name, value) in xattrs {
            record(&mut extended, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        self.write(header, &extended)
    }

    /// Path, owner, mode and time.
    fn common(&self, node: &Node, path: &[u8]) -> (Header, Vec<u8>) {
        let (mut header, mut extended) = (empty(EntryType::Regular, node.mode), Vec::new());
        name(&mut header.as_old_mut().name, "path", path, &mut extended);
        let (uid, gid) = self.owner.unwrap_or((node.uid, node.gid));
        for (key, id) in [("uid", uid), ("gid", gid)] {
            if id > LARGEST_ID {
                record(&mut extended, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        header.set_uid(if uid > LARGEST_ID { 0 } else { uid.into() });
        header.set_gid(if gid > LARGEST_ID { 0 } else { gid.into() });
        let seconds = u64::try_from(node.mtime.0).ok().filter(|time| *time <= LARGEST_SIZE);
        if seconds.is_none() || node.mtime.1 != 0 {
            record(&mut extended, b"mtime", time(node.mtime).as_bytes());
        }
        header.set_mtime(seconds.unwrap_or_default());
        (header, extended)
    }

    fn write(&mut self, header: Header, extended: &[u8]) -> io::Result<()> {
        if !extended.is_empty() {
            let mut before = empty(EntryType::XHeader, 0o644);
            before.as_old_mut().name[..3].copy_from_slice(b"pax");
            before.set_size(extended.len() as u64);
            self.header(before)?;
            self.out.write_all(extended)?;
            self.pad(extended.len() as u64)?;
        }
        self.header(header)
    }

    fn header(&mut self, mut header: Header) -> io::Result<()> {
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn contents(
        &mut self,
        mut file: File,
        size: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 128 * 1024];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read(&mut buffer[..most])?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter"));
            }
            self.out.write_all(&buffer[..read])?;
            left -= read as u64;
            if cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(512) - size;
        self.out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or_default()])
    }
}

/// A header of something that is empty and belongs to root.
fn empty(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mtime(0);
    header
}

/// Writes a name into its field, or into a record where it is too long for that.
fn name(field: &mut [u8; SHORT], key: &str, name: &[u8], extended: &mut Vec<u8>) {
    let length = name.len().min(SHORT);
    field[..length].copy_from_slice(&name[..length]);
    if name.len() > SHORT {
        record(extended, key.as_bytes(), name);
    }
}

/// Adds `LENGTH KEY=VALUE\n`, LENGTH being that of the whole record.
fn record(extended: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    extended.extend_from_slice(format!("{length} ").as_bytes());
    extended.extend_from_slice(key);
    extended.push(b'=');
    extended.extend_from_slice(value);
    extended.push(b'\n');
}

/// A time with its fraction, if it has one.
fn time((seconds, nanoseconds): (i64, u32)) -> String {
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (true, 1..) => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
        (true, _) => ("-", seconds.unsigned_abs(), 0),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    let fraction = format!(".{nanoseconds:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{seconds}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_know_their_length() {
        for length in 1..2000 {
            let mut bytes = Vec::new();
            record(&mut bytes, b"k", &vec![b'v'; length]);
            let said = bytes.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(said).unwrap(), bytes.len().to_string());
        }
    }

    #[test]
    fn times_are_written() {
        assert_eq!(time((12, 0)), "12");
        assert_eq!(time((12, 500_000_000)), "12.5");
        assert_eq!(time((0, 1)), "0.000000001");
        assert_eq!(time((-1, 0)), "-1");
        assert_eq!(time((-2, 750_000_000)), "-1.25");
    }
}
