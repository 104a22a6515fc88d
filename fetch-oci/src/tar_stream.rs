//! Reads the entries of a tar archive one after the other, in bounded memory.
//!
//! Extended headers are applied here and not by the `tar` crate: an extended attribute may hold any byte, line ends
//! included, and no header may be so long that it fills the memory.

use std::collections::BTreeMap;
use std::io::{self, BufRead, ErrorKind};

use tar::{EntryType, Header};

/// Size of all headers, and what contents are padded to.
const BLOCK: usize = 512;

/// Extended headers and long names are at most this many bytes.
const LARGEST_HEADER: u64 = 1 << 20;

/// All of those before one entry are together at most this many bytes.
const LARGEST_HEADERS: u64 = 2 << 20;

/// No file is larger than this many bytes, so that sums of sizes and places fit.
const LARGEST_FILE: u64 = 1 << 60;

/// Prefix of an extended attribute in an extended header.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// One entry, everything applied that stood before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    /// Extended attributes by name.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink(Vec<u8>),
    /// A further name of a file that came before, by its path in the archive.
    Link(Vec<u8>),
    Fifo,
    /// Whether it is a block device, and its numbers.
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
}

/// A tar archive being read.
pub(crate) struct TarStream<R> {
    input: R,
    /// Bytes of the present entry not yet read, and the padding after them.
    left: u64,
    padding: u64,
    ended: bool,
}

/// What extended headers say of the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    numbers: BTreeMap<&'static str, u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: BufRead> TarStream<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, ended: false }
    }

    /// The next entry; what was not read of the one before is skipped.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let (mut extended, mut headers) = (Extended::default(), 0_u64);
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            let is_header = matches!(
                header.entry_type(),
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            headers = headers.saturating_add(if is_header { size } else { 0 });
            if headers > LARGEST_HEADERS {
                return Err(bad("the headers of an entry are too long together"));
            }
            match header.entry_type() {
                EntryType::XHeader => extended.read(&self.body(size)?)?,
                // Facts of the archive as a whole, such as the commit it was made from.
                EntryType::XGlobalHeader => drop(self.body(size)?),
                EntryType::GNULongName => extended.path = Some(text(self.body(size)?)),
                EntryType::GNULongLink => extended.link = Some(text(self.body(size)?)),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Some bytes of the present entry, none at its end. They must be taken with [`TarStream::consume`].
    pub(crate) fn chunk(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf()?;
        if chunk.is_empty() {
            return Err(truncated());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(chunk.len());
        Ok(&chunk[..most])
    }

    /// Takes bytes of the present entry.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.left -= bytes as u64;
    }

    /// Reads what is left of the input, whatever it is.
    pub(crate) fn drain(mut self) -> io::Result<()> {
        loop {
            match self.input.fill_buf()?.len() {
                0 => return Ok(()),
                len => self.input.consume(len),
            }
        }
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> io::Result<Entry> {
        let number = |key: &str, otherwise: io::Result<u64>| {
            extended.numbers.get(key).copied().map_or(otherwise, Ok)
        };
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extended.link.or_else(|| Some(header.link_name_bytes()?.into_owned()));
        let kind = kind(header, &path, link.unwrap_or_default())?;
        // Nothing else has contents, whatever its header says.
        let size = if kind == Kind::File { number("size", header.entry_size())? } else { 0 };
        if size > LARGEST_FILE {
            return Err(bad("an entry is larger than any file can be"));
        }
        let (uid, gid) = (
            number("uid", or_blank(&header.as_old().uid, header.uid()))?,
            number("gid", or_blank(&header.as_old().gid, header.gid()))?,
        );
        let seconds = || {
            let time = or_blank(&header.as_old().mtime, header.mtime());
            time.map(|time| (i64::try_from(time).unwrap_or_default(), 0))
        };
        let mtime = extended.mtime.map_or_else(seconds, Ok)?;
        self.expect(size);
        let mode = or_blank(&header.as_old().mode, header.mode().map(u64::from))?;
        let mode = (mode & 0o7777) as u32;
        Ok(Entry { path, kind, mode, uid, gid, mtime, size, xattrs: extended.xattrs })
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64).wrapping_sub(size) % BLOCK as u64;
    }

    /// The next header; `None` at the end, which is a block of zeros or that of the input.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        if !read_block(&mut self.input, block)? || block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        // The checksum is reckoned as if its own field held blanks.
        let sum = block.iter().enumerate().map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        });
        let sum: u32 = sum.sum();
        if header.cksum().map_err(|_| bad("a header of the archive is damaged"))? != sum {
            return Err(bad("a header of the archive is damaged"));
        }
        Ok(Some(header))
    }

    /// The contents of an extended header.
    fn body(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > LARGEST_HEADER {
            return Err(bad("a header of the archive is too long"));
        }
        self.expect(size);
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(chunk);
            let len = chunk.len();
            self.consume(len);
        }
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let there = self.input.fill_buf()?.len();
            if there == 0 {
                return Err(truncated());
            }
            let take = usize::try_from(bytes).unwrap_or(usize::MAX).min(there);
            self.input.consume(take);
            bytes -= take as u64;
        }
        Ok(())
    }
}

impl<R: io::Read + io::Seek> TarStream<io::BufReader<R>> {
    /// The next entry; what was not read of the one before is not read at all.
    pub(crate) fn next_by_seeking(&mut self) -> io::Result<Option<Entry>> {
        let skipped = i64::try_from(self.left + self.padding).map_err(|_| truncated())?;
        self.input.seek_relative(skipped)?;
        (self.left, self.padding) = (0, 0);
        self.next()
    }

    /// Where in the input the contents of the present entry begin.
    pub(crate) fn position(&mut self) -> io::Result<u64> {
        io::Seek::stream_position(&mut self.input)
    }
}

/// Reads one block; `false` if the input has ended before it.
fn read_block(input: &mut impl BufRead, block: &mut [u8; BLOCK]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(truncated()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A number field that is left blank means 0.
fn or_blank(field: &[u8], read: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { read }
}

fn kind(header: &Header, path: &[u8], link: Vec<u8>) -> io::Result<Kind> {
    let numbers = || -> io::Result<(u32, u32)> {
        let raw = header.as_bytes();
        let device = |field: &[u8], read: io::Result<Option<u32>>| {
            or_blank(field, read.map(|number| u64::from(number.unwrap_or_default())))
        };
        let major = device(&raw[329..337], header.device_major())?;
        let minor = device(&raw[337..345], header.device_minor())?;
        Ok((major as u32, minor as u32))
    };
    Ok(match header.entry_type() {
        // The oldest archives have no type for directories.
        EntryType::Regular if path.ends_with(b"/") => Kind::Dir,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Dir,
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Link => Kind::Link(link),
        EntryType::Fifo => Kind::Fifo,
        kind @ (EntryType::Char | EntryType::Block) => {
            let (major, minor) = numbers()?;
            Kind::Device { block: kind == EntryType::Block, major, minor }
        }
        EntryType::GNUSparse => return Err(sparse()),
        other => return Err(bad(&format!("an entry has the unknown type {}", other.as_byte()))),
    })
}

impl Extended {
    /// Applies the records of a PAX header: `LENGTH KEY=VALUE\n`, LENGTH being that of the whole record.
    fn read(&mut self, mut records: &[u8]) -> io::Result<()> {
        let malformed = || bad("an extended header of the archive is malformed");
        while !records.is_empty() {
            let blank = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = number(&records[..blank]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| (blank + 2..=records.len()).contains(length));
            let (record, rest) = records.split_at(length.ok_or_else(malformed)?);
            let record = record[blank + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let malformed = || bad("an extended header of the archive has a malformed number");
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(malformed)?),
            b"size" | b"uid" | b"gid" => {
                let key = match key {
                    b"size" => "size",
                    b"uid" => "uid",
                    _ => "gid",
                };
                self.numbers.insert(key, number(value).ok_or_else(malformed)?);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// Reads `SECONDS` or `SECONDS.FRACTION`, which may be negative.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let mut fraction = parts.next().unwrap_or(b"0").to_vec();
    fraction.resize(9, b'0');
    let nanoseconds = u32::try_from(number(&fraction)?).ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// A name that ends with its first zero byte.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn truncated() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the archive ends in the middle of an entry")
}

fn sparse() -> io::Error {
    bad("an entry is a sparse file of GNU's own form, which images do not have")
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("+1", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn extended_attributes_may_hold_line_ends() {
        let mut extended = Extended::default();
        extended.read(b"27 SCHILY.xattr.user.a=b\nc\n9 uid=42\n").unwrap();
        assert_eq!(extended.xattrs[&b"user.a"[..]], b"b\nc");
        assert_eq!(extended.numbers["uid"], 42);
        for bad in ["5 a=b", "99 a=b\n", "4 ab\n", "1 ", "x a=b\n", "9 uid=-2\n"] {
            assert!(Extended::default().read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_damaged_or_cut_archive_is_an_error() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(700);
        header.set_entry_type(EntryType::Regular);
        builder.append_data(&mut header, "file", &[7_u8; 700][..]).unwrap();
        let whole = builder.into_inner().unwrap();
        let read = |bytes: &[u8]| {
            let mut stream = TarStream::new(bytes);
            while stream.next()?.is_some() {}
            Ok::<_, io::Error>(())
        };
        read(&whole).unwrap();
        read(&whole[..1536]).unwrap();
        for length in [1, 511, 513, 1200, 1535] {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        assert!(read(&damaged).unwrap_err().to_string().contains("damaged"));
    }
}
