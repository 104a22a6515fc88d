//! Unpacks the layers of an image on top of each other.
//!
//! Whatever a layer holds, nothing outside the tree is touched, and nothing in it is written through a link: a file that a
//! layer replaces is removed first. Modes and times of directories are set when everything else is there.

mod attributes;
mod entry;
mod whiteout;

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use obuilder_core::Cancel;

use crate::error::{At, Error, Result};
use crate::layer::LayerBlob;
use crate::tar_stream::TarStream;
use crate::tree::{self, Cursor, Fail, Names};
use attributes::Directory;
pub(crate) use attributes::is_kept;

/// How many of the files that were left out are named.
const MOST_NAMED: usize = 20;

/// How images are unpacked.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most bytes that all files together may have.
    pub most_bytes: u64,
    /// Most files, directories and links.
    pub most_entries: u64,
    /// Whether device nodes are made, for root; else they are left out.
    pub devices: bool,
}

impl Default for Options {
    /// 64 GiB, ten million entries, no devices.
    fn default() -> Self {
        Self { most_bytes: 64 << 30, most_entries: 10_000_000, devices: false }
    }
}

impl Options {
    /// Most bytes that the archives of an image may have: headers and padding come on top of contents.
    pub(crate) fn most_stored(&self) -> u64 {
        self.most_bytes.saturating_add(self.most_entries.saturating_mul(1024))
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Entries of all layers, and directories that those leave out.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// The first of the devices, and of what else cannot be made here, that were left out.
    pub left_out: Vec<PathBuf>,
    /// How many more of them there were.
    pub more_left_out: u64,
    /// How many extended attributes the caller or the filesystem did not allow.
    pub lost_attributes: u64,
}

/// A tree that layers are unpacked into.
pub(crate) struct Unpacker<'a> {
    path: &'a Path,
    options: &'a Options,
    cancel: &'a Cancel,
    root: Rc<OwnedFd>,
    at: Cursor,
    /// Where the targets of hard links are looked for.
    other: Cursor,
    /// What directories get in the end, by [`tree::key`].
    dirs: BTreeMap<Vec<u8>, Directory>,
    /// How long the ACLs in there are.
    acl_bytes: usize,
    /// What the present layer has made, by [`tree::key`]; not kept for the first layer, which has nothing to hide.
    made: Option<HashSet<Vec<u8>>>,
    /// Whether names that begin with `.wh.` hide what lower layers have.
    whiteouts: bool,
    is_root: bool,
    removed: u64,
    done: Unpacked,
}

impl<'a> Unpacker<'a> {
    /// For the empty directory `path`.
    pub(crate) fn new(path: &'a Path, options: &'a Options, cancel: &'a Cancel) -> Result<Self> {
        let root = Rc::new(tree::open_root(path).at("open", path)?);
        Ok(Self {
            path,
            options,
            cancel,
            at: Cursor::new(root.clone()),
            other: Cursor::new(root.clone()),
            root,
            dirs: BTreeMap::new(),
            acl_bytes: 0,
            made: None,
            whiteouts: true,
            is_root: rustix::process::geteuid().is_root(),
            removed: 0,
            done: Unpacked::default(),
        })
    }

    /// For an archive that is no layer: names of whiteouts mean nothing.
    pub(crate) fn plain(mut self) -> Self {
        self.whiteouts = false;
        self
    }

    /// Unpacks one layer on top of those before; `name` is for messages.
    pub(crate) fn layer(&mut self, name: &str, blob: LayerBlob<'_>) -> Result<()> {
        let most = self.options.most_stored();
        let failed = |entry: &str, error: std::io::Error| match Error::io("", error) {
            Error::Io { source, .. } => bad(name, entry, format!("cannot be unpacked: {source}")),
            ours => ours,
        };
        std::thread::scope(|scope| {
            let mut stream = TarStream::new(blob.stream(scope, most));
            let mut last = "the beginning".to_owned();
            while let Some(entry) = stream.next().map_err(|e| failed(&last, e))? {
                last = String::from_utf8_lossy(&entry.path).into_owned();
                self.count(entry.size)?;
                self.entry(&entry, &mut stream).map_err(|error| match error {
                    entry::Failure::Entry(why) => bad(name, &last, why.to_owned()),
                    entry::Failure::Io(source) => failed(&last, source),
                    entry::Failure::Cancelled => Error::Cancelled,
                })?;
            }
            stream.drain().map_err(|e| failed("the end", e))
        })?;
        self.made = Some(HashSet::new());
        Ok(())
    }

    /// Gives directories their modes and times. Nothing can be unpacked afterwards.
    pub(crate) fn finish(mut self) -> Result<Unpacked> {
        // What lies deeper comes first: a parent may forbid to enter it.
        for (key, directory) in self.dirs.iter().rev() {
            let names = tree::names_of(key);
            let set = self.at.enter(&names, &mut Fail).and_then(|fd| directory.apply(&fd));
            let lost = set.at(
                "set the attributes of",
                self.path.join(String::from_utf8_lossy(key).as_ref()),
            )?;
            self.done.lost_attributes += lost;
        }
        Ok(self.done)
    }

    /// Remembers what was not made, as far as people will read it.
    fn leave_out(&mut self, path: PathBuf) {
        match self.done.left_out.len() < MOST_NAMED {
            true => self.done.left_out.push(path),
            false => self.done.more_left_out += 1,
        }
    }

    fn count(&mut self, size: u64) -> Result<()> {
        let Options { most_bytes, most_entries, .. } = *self.options;
        let bytes = self.done.bytes.checked_add(size).filter(|bytes| *bytes <= most_bytes);
        let Some(bytes) = bytes else {
            let (what, limit) = ("the unpacked image".to_owned(), format!("{most_bytes} bytes"));
            return Err(Error::TooLarge { what, limit });
        };
        self.done.bytes = bytes;
        self.done.entries += 1;
        if self.done.entries > most_entries {
            let (what, limit) = ("the image".to_owned(), format!("{most_entries} files"));
            return Err(Error::TooLarge { what, limit });
        }
        Ok(())
    }

    /// Remembers that the present layer has made the entry at this real place, and so the directories above it.
    fn note(&mut self, place: &[CString]) {
        let Some(made) = &mut self.made else { return };
        for length in (1..=place.len()).rev() {
            if !made.insert(tree::key(&place[..length])) {
                break;
            }
        }
    }

    /// Forgets all that was remembered of what lies at and below this real place, which is about to go.
    fn forget(&mut self, place: &Names) {
        self.at.forget(place);
        self.other.forget(place);
        let key = tree::key(place);
        let mut below = key.clone();
        below.push(b'/');
        let gone = self.dirs.range(below.clone()..).map(|(key, _)| key);
        let gone: Vec<_> = gone.take_while(|key| key.starts_with(&below)).cloned().collect();
        for key in gone.iter().chain([&key]) {
            self.dirs.remove(key);
        }
    }
}

fn bad(layer: &str, entry: &str, why: String) -> Error {
    Error::BadLayer { layer: layer.to_owned(), entry: entry.to_owned(), why }
}

/// Copies the contents of the present entry of `stream` with `write`.
fn contents<R: BufRead>(
    stream: &mut TarStream<R>,
    cancel: &Cancel,
    mut write: impl FnMut(&[u8]) -> rustix::io::Result<usize>,
) -> std::result::Result<(), entry::Failure> {
    loop {
        let chunk = stream.chunk().map_err(entry::Failure::Io)?;
        if chunk.is_empty() {
            return Ok(());
        }
        match write(chunk) {
            Ok(written) => stream.consume(written),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if cancel.is_cancelled() {
            return Err(entry::Failure::Cancelled);
        }
    }
}
