//! The files of a layout or archive: a directory, or the members of a tar archive, which are read where they lie.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::error::{At, Error, Result};
use crate::layer;
use crate::tar_stream::{Kind, TarStream};

/// More members than this has no archive of images.
const MOST_MEMBERS: usize = 200_000;

/// A file being read, and how many bytes it has.
pub(crate) type Opened = (Box<dyn Read + Send>, u64);

/// A directory, or a tar archive.
pub(crate) struct Files {
    path: PathBuf,
    archive: Option<Archive>,
}

struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

enum Member {
    File { at: u64, size: u64 },
    Link(String),
}

impl Files {
    /// Opens the directory or archive at `path`; one that is compressed unpacks to at most `most` bytes.
    pub(crate) fn open(path: &Path, most: u64) -> Result<Self> {
        let archive = if path.is_dir() { None } else { Some(Archive::open(path, most)?) };
        Ok(Self { path: path.to_owned(), archive })
    }

    /// Where they are, for messages.
    pub(crate) fn place(&self) -> String {
        format!("`{}`", self.path.display())
    }

    /// Opens the file `name`; `None` if there is none.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Opened>> {
        // Names come from manifests, and lead to nothing outside.
        let name = normal(name);
        if let Some(archive) = &self.archive {
            return Ok(archive.get(name));
        }
        let path = self.path.join(name);
        match open_regular(&path) {
            Ok(file) => {
                let size = file.metadata().at("read", &path)?.len();
                Ok(Some((Box::new(file), size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::path("open", &path, error)),
        }
    }

    /// All of the file `name`, which has at most `most` bytes.
    pub(crate) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.get(name)? else { return Ok(None) };
        if size > most {
            let what = format!("`{name}` in {}", self.place());
            return Err(Error::TooLarge { what, limit: format!("{most} bytes") });
        }
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).at("read", self.path.join(name))?;
        Ok(Some(bytes))
    }
}

/// Opens a file, and nothing that only looks like one: whoever opens a pipe waits until somebody writes to it.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

impl Archive {
    fn open(path: &Path, most: u64) -> Result<Self> {
        let mut file = open_regular(path).at("open", path)?;
        if is_compressed(&mut file).at("read", path)? {
            let mut unpacked = tempfile::tempfile().at("make a temporary file for", path)?;
            let input = layer::decompress(file).at("read", path)?;
            let copied = io::copy(&mut input.take(most + 1), &mut unpacked).at("unpack", path)?;
            if copied > most {
                let what = format!("`{}`, unpacked,", path.display());
                return Err(Error::TooLarge { what, limit: format!("{most} bytes") });
            }
            file = unpacked;
        }
        file.seek(SeekFrom::Start(0)).at("read", path)?;
        let members = index(&file).at("read the archive", path)?;
        Ok(Self { file: Arc::new(file), members })
    }

    fn get(&self, mut name: String) -> Option<Opened> {
        // A member may be a link to another, which `docker save` makes of layers that images share.
        for _ in 0..8 {
            match self.members.get(&name)? {
                Member::File { at, size } => {
                    let slice = Slice { file: self.file.clone(), at: *at, end: at + size };
                    return Some((Box::new(slice), *size));
                }
                Member::Link(target) => name = target.clone(),
            }
        }
        None
    }
}

fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut start = [0; 4];
    let read = file.read_at(&mut start, 0)?;
    Ok(layer::is_compressed(&start[..read]))
}

fn index(file: &File) -> io::Result<HashMap<String, Member>> {
    let length = file.metadata()?.size();
    let mut stream = TarStream::new(BufReader::new(file));
    let mut members = HashMap::new();
    while let Some(entry) = stream.next_by_seeking()? {
        let at = stream.position()?;
        let name = normal(&String::from_utf8_lossy(&entry.path));
        let member = match entry.kind {
            Kind::File if at + entry.size > length => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it ends in the middle of a file",
                ));
            }
            Kind::File => Member::File { at, size: entry.size },
            Kind::Link(target) => Member::Link(normal(&String::from_utf8_lossy(&target))),
            Kind::Symlink(target) => {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                Member::Link(normal(&format!("{parent}/{}", String::from_utf8_lossy(&target))))
            }
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MOST_MEMBERS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has too many members"));
        }
    }
    Ok(members)
}

/// A path without `.`, `..` and needless slashes.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// A part of a file; several may be read at once.
struct Slice {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
