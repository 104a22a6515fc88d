//! Where `copy` takes files from: looking at them without following any link.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::{BStr, BString, ByteSlice, ByteVec};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::CopyError;
use crate::manifest::Manifest;

/// Bytes read from a file at a time.
const CHUNK: usize = 128 * 1024;

/// How many directories deep a source may go. Each holds a descriptor or two while it is copied.
const MAX_DEPTH: usize = 100;

/// A directory that files are copied from.
pub(super) struct Source {
    root: OwnedFd,
    path: PathBuf,
}

impl Source {
    /// Opens the directory at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| CopyError::Io {
            action: "open the source directory",
            path: path.to_owned(),
            source: error.into(),
        })?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Describes `src`, leaving out what is called as one of `exclude` below it.
    pub(super) fn manifest(&self, src: &BStr, exclude: &[BString]) -> Result<Manifest, CopyError> {
        let mut parts: Vec<&[u8]> =
            src.split_str("/").filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&b"..".as_slice()) {
            return Err(CopyError::DotDot(src.to_owned()));
        }
        let Some(last) = parts.pop() else {
            return self.directory(&self.root, BString::default(), exclude);
        };
        let mut parent = self
            .root
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| self.fail("open", BStr::new(""), e))?;
        let mut path = BString::default();
        for part in parts {
            join(&mut path, part);
            parent = match open_dir(&parent, part) {
                Ok(dir) => dir,
                Err(error) => return Err(self.not_entered(src, &parent, path, part, error)),
            };
        }
        join(&mut path, last);
        match rustix::fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => self.item(&parent, last, path, exclude),
            Err(Errno::NOENT) => Err(self.missing(src, &parent, last)),
            Err(error) => Err(self.fail("look at", path.as_bstr(), error.into())),
        }
    }

    /// Opens the directory that holds the item at `path`, and gives the item's name.
    pub(super) fn parent_of<'a>(&self, path: &'a BStr) -> io::Result<(OwnedFd, &'a [u8])> {
        let mut dir = self.root.try_clone()?;
        let mut parts: Vec<_> = path.split_str("/").collect();
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            dir = open_dir(&dir, part)?;
        }
        Ok((dir, if name.is_empty() { b"." } else { name }))
    }

    fn item(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        path: BString,
        exclude: &[BString],
    ) -> Result<Manifest, CopyError> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.vanished(path.as_bstr(), error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let mut file = open_file(parent, name)
                    .map_err(|error| self.vanished(path.as_bstr(), error))?;
                let unread = |error| self.fail("read", path.as_bstr(), error);
                let sha256 = digest(&mut file, unread, |_| Ok(()))?;
                Ok(Manifest::File { path, sha256 })
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new());
                let target = target.map_err(|error| self.vanished(path.as_bstr(), error))?;
                Ok(Manifest::Symlink { path, target: target.into_bytes().into() })
            }
            FileType::Directory => {
                let dir =
                    open_dir(parent, name).map_err(|error| self.vanished(path.as_bstr(), error))?;
                self.directory(&dir, path, exclude)
            }
            FileType::Fifo => Err(CopyError::Kind { path, kind: "a FIFO" }),
            FileType::Socket => Err(CopyError::Kind { path, kind: "a socket" }),
            _ => Err(CopyError::Kind { path, kind: "a device" }),
        }
    }

    fn directory(
        &self,
        dir: &OwnedFd,
        path: BString,
        exclude: &[BString],
    ) -> Result<Manifest, CopyError> {
        if path.find_iter(b"/").count() >= MAX_DEPTH {
            return Err(CopyError::TooDeep { path, limit: MAX_DEPTH });
        }
        let names = names(dir).map_err(|error| self.fail("list", path.as_bstr(), error))?;
        let wanted = names.into_iter().filter(|name| !exclude.contains(name));
        let child = |name: BString| {
            let mut below = path.clone();
            join(&mut below, &name);
            self.item(dir, &name, below, exclude)
        };
        let children = wanted.map(child).collect::<Result<_, _>>()?;
        Ok(Manifest::dir(path, children))
    }

    fn not_entered(
        &self,
        src: &BStr,
        parent: &OwnedFd,
        path: BString,
        part: &[u8],
        error: Errno,
    ) -> CopyError {
        match rustix::fs::statat(parent, part, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => self.missing(src, parent, part),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                CopyError::ThroughLink { path: src.to_owned(), link: path }
            }
            _ => self.fail("enter", path.as_bstr(), error.into()),
        }
    }

    fn missing(&self, src: &BStr, parent: &OwnedFd, name: &[u8]) -> CopyError {
        let wanted = name.to_str_lossy();
        let like = |name: &BString| strsim::jaro_winkler(&name.to_str_lossy(), &wanted);
        let best = names(parent)
            .unwrap_or_default()
            .into_iter()
            .max_by(|a, b| like(a).total_cmp(&like(b)));
        let nearest = best.filter(|name| like(name) > 0.8).map(|name| name.to_string());
        CopyError::Missing { path: src.to_owned(), dir: self.path.clone(), nearest }
    }

    /// What was there a moment ago and is not any more, or not the same kind of thing; or another failure to open it.
    pub(super) fn vanished(&self, path: &BStr, error: impl Into<io::Error>) -> CopyError {
        let error = error.into();
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => {
                CopyError::Changed(path.to_owned())
            }
            _ => self.fail("open", path, error),
        }
    }

    pub(super) fn fail(&self, action: &'static str, path: &BStr, source: io::Error) -> CopyError {
        CopyError::Io { action, path: self.path.join(OsStr::from_bytes(path)), source }
    }
}

/// Opens a directory that is no symbolic link.
pub(super) fn open_dir(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens a file that is no symbolic link; never waits, should it have become a FIFO.
pub(super) fn open_file(parent: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?))
}

/// Reads `file` to its end, gives each piece to `piece`, and the SHA-256 of all of it. The reading's errors go through
/// `unread`.
pub(super) fn digest(
    file: &mut File,
    unread: impl Fn(io::Error) -> CopyError,
    mut piece: impl FnMut(&[u8]) -> Result<(), CopyError>,
) -> Result<String, CopyError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(&unread)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => {
                hash.update(&buffer[..read]);
                piece(&buffer[..read])?;
            }
        }
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<BString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = BString::from(entry?.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn join(path: &mut BString, name: &[u8]) {
    if !path.is_empty() {
        path.push_byte(b'/');
    }
    path.push_str(name);
}
