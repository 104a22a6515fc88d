//! Blobs by their digest, shared by all images, and what tags pointed to.
//!
//! ```text
//! DIR/blobs/HEX      whole blobs, each found to have its digest when it came; the time of the file is that of its last use
//! DIR/partial/HEX    blobs that are coming, or came in part; locked by who brings them
//! DIR/refs/HEX       {"reference", "top", "manifest"}: what a reference led to when it was last looked at
//! ```
//!
//! Several processes may use one directory, which who needs what is in it keeps locked; pruning has it alone, or leaves what was
//! used of late. A blob is read with its digest checked again, so that a damaged one is seen.

use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use obuilder_core::Cancel;
use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::error::{At, Error, Result};

/// How often a lock is tried while another process brings the same blob.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a reference led to takes less, in bytes.
const LARGEST_REF: u64 = 64 * 1024;

/// What the names of directories begin with in which images are made.
pub(crate) const STAGING: &[u8] = b".obuild-export-";

/// No export goes on for longer without beginning another layer.
const LONGEST_EXPORT: Duration = Duration::from_secs(24 * 60 * 60);

/// No image takes longer to come and to be unpacked.
const LONGEST_PULL: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory of blobs.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// What a reference led to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Remembered {
    pub(crate) reference: String,
    /// The manifest or index that the registry gave.
    pub(crate) top: Digest,
    /// The manifest for the wanted platform.
    pub(crate) manifest: Digest,
}

impl Cache {
    /// At this directory, which is made when something is put into it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, kind: &str, hex: &str) -> PathBuf {
        self.dir.join(kind).join(hex)
    }

    fn make(&self, kind: &str) -> Result<()> {
        let path = self.dir.join(kind);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).at("create", path)
    }

    /// Keeps everything here as long as the returned file lives.
    pub(crate) fn hold(&self, cancel: &Cancel) -> Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).at("create", &self.dir)?;
        let dir = File::open(&self.dir).at("open", &self.dir)?;
        loop {
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(dir),
                // It is being pruned, which takes a moment.
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if cancel.wait_timeout(LOOK_AGAIN) {
                        return Err(Error::Cancelled);
                    }
                }
                Err(error) => return Err(Error::path("lock", &self.dir, error.into())),
            }
        }
    }

    /// Opens a blob of this size and marks it as used; `None` if it is not there.
    pub(crate) fn open(&self, digest: &Digest, size: u64) -> Result<Option<File>> {
        let path = self.path("blobs", digest.hex());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::path("open", &path, error)),
        };
        if file.metadata().at("read", &path)?.len() != size {
            // Cut short by a power failure, say.
            self.forget(digest)?;
            return Ok(None);
        }
        touch(&file);
        Ok(Some(file))
    }

    /// A small blob, checked; `None` if it is not there or damaged.
    pub(crate) fn read(&self, digest: &Digest, most: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path("blobs", digest.hex());
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                touch(&file);
                file.take(most).read_to_end(&mut bytes).at("read", &path)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::path("open", &path, error)),
        };
        Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == *digest))
    }

    /// Keeps a small blob.
    pub(crate) fn write(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        self.replace("blobs", digest.hex(), bytes)
    }

    /// Takes the file at `path`, which is this blob, for its own.
    pub(crate) fn adopt(&self, path: &Path, digest: &Digest) -> Result<()> {
        self.make("blobs")?;
        let to = self.path("blobs", digest.hex());
        fs::rename(path, &to).at("write", to)
    }

    /// Removes a blob that was found to be damaged.
    pub(crate) fn forget(&self, digest: &Digest) -> Result<()> {
        let path = self.path("blobs", digest.hex());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::path("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// The part of a blob that has come, alone for us; `None` if the whole blob has come meanwhile.
    pub(crate) fn partial(
        &self,
        digest: &Digest,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Option<Partial>> {
        self.make("partial")?;
        self.make("blobs")?;
        let path = self.path("partial", digest.hex());
        loop {
            if self.open(digest, size)?.is_some() {
                return Ok(None);
            }
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.at("open", &path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever had the lock before may have finished it, and then it is elsewhere.
                Ok(()) if is_at(&file, &path) => {
                    let whole = self.path("blobs", digest.hex());
                    return Ok(Some(Partial { file, path, whole }));
                }
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if cancel.wait_timeout(LOOK_AGAIN) {
                        return Err(Error::Cancelled);
                    }
                }
                Err(error) => return Err(Error::path("lock", &path, error.into())),
            }
        }
    }

    /// What `reference` led to for `platforms`.
    pub(crate) fn remembered(&self, reference: &str, platforms: &str) -> Option<Remembered> {
        let file = File::open(self.path("refs", &ref_key(reference, platforms))).ok()?;
        touch(&file);
        let mut bytes = Vec::new();
        file.take(LARGEST_REF).read_to_end(&mut bytes).ok()?;
        let found: Remembered = serde_json::from_slice(&bytes).ok()?;
        Some(found).filter(|found| found.reference == reference)
    }

    /// Remembers it.
    pub(crate) fn remember(&self, platforms: &str, what: &Remembered) -> Result<()> {
        let json = serde_json::to_vec(what)
            .map_err(|e| Error::io("remember what a reference led to", e.into()))?;
        self.replace("refs", &ref_key(&what.reference, platforms), &json)
    }

    fn replace(&self, kind: &str, name: &str, bytes: &[u8]) -> Result<()> {
        self.make(kind)?;
        let dir = self.dir.join(kind);
        let mut new = tempfile::NamedTempFile::new_in(&dir).at("write to", &dir)?;
        io::Write::write_all(&mut new, bytes).at("write to", &dir)?;
        new.persist(dir.join(name)).map(drop).map_err(|e| Error::path("write to", &dir, e.error))
    }

    /// Removes blobs, and parts of blobs, that were last used before `before`; says how many bytes that freed. While images are
    /// being brought, what was used within a day stays, as they may be about to need it.
    pub fn prune(&self, before: SystemTime) -> Result<u64> {
        let dir = match File::open(&self.dir) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(Error::path("open", &self.dir, error)),
        };
        let before = match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => before,
            Err(_) => before.min(SystemTime::now() - LONGEST_PULL),
        };
        let mut freed = 0;
        for kind in ["blobs", "partial", "refs"] {
            for (path, meta) in self.files(kind)? {
                if meta.modified().at("read", &path)? > before {
                    continue;
                }
                match remove(&path, kind == "partial") {
                    Ok(true) => freed += meta.blocks() * 512,
                    Ok(false) => {}
                    // Somebody else has removed it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::path("remove", &path, error)),
                }
            }
        }
        self.sweep(before)?;
        Ok(freed)
    }

    /// Removes the directories of exports that were killed.
    fn sweep(&self, before: SystemTime) -> Result<()> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().filter_map(|entry| entry.ok());
        for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(STAGING)) {
            let old = entry.metadata().and_then(|meta| meta.modified());
            if old.is_ok_and(|modified| modified < before.min(SystemTime::now() - LONGEST_EXPORT)) {
                let removed = tree_copy::remove_tree(&entry.path());
                removed.map_err(|e| Error::path("remove", &entry.path(), io::Error::other(e)))?;
            }
        }
        Ok(())
    }

    /// Bytes that it takes.
    pub fn size(&self) -> Result<u64> {
        let mut size = 0;
        for kind in ["blobs", "partial", "refs"] {
            size += self.files(kind)?.iter().map(|(_, meta)| meta.blocks() * 512).sum::<u64>();
        }
        Ok(size)
    }

    fn files(&self, kind: &str) -> Result<Vec<(PathBuf, fs::Metadata)>> {
        let dir = self.dir.join(kind);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::path("list", &dir, error)),
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        // What goes meanwhile is not there.
        Ok(paths.filter_map(|path| fs::metadata(&path).ok().map(|meta| (path, meta))).collect())
    }
}

fn ref_key(reference: &str, platforms: &str) -> String {
    Digest::of(format!("{reference} {platforms}").as_bytes()).hex().to_owned()
}

/// Marks a file as used, which only pruning asks for.
fn touch(file: &File) {
    let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
}

/// Removes a file, unless it may be locked and is; says whether it is gone.
fn remove(path: &Path, may_be_locked: bool) -> io::Result<bool> {
    let file = File::open(path)?;
    let lock = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    if may_be_locked && lock.is_err() {
        return Ok(false);
    }
    fs::remove_file(path).map(|()| true)
}

fn is_at(file: &File, path: &Path) -> bool {
    let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(path)) => inode(file) == inode(path),
        _ => false,
    }
}

/// A blob that is coming; nobody else writes to it while this lives.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    whole: PathBuf,
}

impl Partial {
    /// Makes the blob, which has been checked, one of the cache.
    pub(crate) fn finish(self) -> Result<()> {
        fs::rename(&self.path, &self.whole).at("write", &self.whole)
    }
}
