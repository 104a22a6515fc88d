//! Putting copied files into a tree, never outside it.
//!
//! A tree may hold symbolic links that a step has planted. Links on the way to the destination are followed as the step
//! would follow them, with the tree's root in place of `/`; the walk goes from one open directory to the next and cannot
//! leave the tree. Nothing else writes to the tree meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use bstr::{BStr, BString, ByteSlice};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;

use super::CopyError;
use super::source::{Source, digest, open_dir, open_file};
use crate::cancel::Cancel;
use crate::contracts::Sandbox;
use crate::manifest::{CopyItems, Manifest};
use crate::step::Owner;

/// Links that may be followed on the way to one destination; as many as Linux follows.
const LINKS: u32 = 40;

/// A tree that files are copied into.
pub(super) struct Target<'a> {
    root: OwnedFd,
    /// Where the tree is, for messages.
    path: &'a Path,
    sandbox: &'a dyn Sandbox,
    owner: Option<Owner>,
}

impl<'a> Target<'a> {
    /// Opens the tree at `path`; what is copied into it will belong to whom the tree belongs, or to `owner` as long as the
    /// tree is still the caller's. A tree that a step has run in is known by its root alone: nothing in it may be another's.
    pub(super) fn open(
        path: &'a Path,
        sandbox: &'a dyn Sandbox,
        owner: Option<Owner>,
    ) -> Result<Self, CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty())
            .and_then(|root| rustix::fs::fstat(&root).map(|stat| (root, stat)));
        let (root, stat) = opened.map_err(|error| CopyError::Io {
            action: "open the tree",
            path: path.to_owned(),
            source: error.into(),
        })?;
        let own = stat.st_uid == rustix::process::geteuid().as_raw();
        let theirs = Owner { uid: stat.st_uid, gid: stat.st_gid };
        let owner = owner.map(|given| if own { given } else { theirs });
        Ok(Self { root, path, sandbox, owner })
    }

    /// Copies `items` from `source`.
    pub(super) fn copy(
        &self,
        items: &CopyItems,
        source: &Source,
        cancel: &Cancel,
    ) -> Result<(), CopyError> {
        match items {
            CopyItems::Into { items, dst } => {
                let dir = self.locate(dst.as_bstr())?;
                let opened = self.make_dirs(&dir)?;
                items.iter().try_for_each(|item| {
                    let name = item.name();
                    let name = if name.is_empty() { BStr::new(".") } else { name };
                    self.top(
                        item,
                        source,
                        &opened,
                        &dir.join(OsStr::from_bytes(name)),
                        name,
                        cancel,
                    )
                })
            }
            CopyItems::At { item, dst } => {
                let path = self.locate(dst.as_bstr())?;
                let parent = path.parent().unwrap_or(Path::new(""));
                let opened = self.make_dirs(parent)?;
                let name =
                    path.file_name().map_or(BStr::new("."), |name| name.as_bytes().as_bstr());
                self.top(item, source, &opened, &path, name, cancel)
            }
        }
    }

    fn locate(&self, path: &BStr) -> Result<PathBuf, CopyError> {
        self.sandbox.locate(path).map_err(|error| CopyError::Target {
            path: PathBuf::from(OsStr::from_bytes(path)),
            why: error.to_string(),
        })
    }

    /// One of the spec's own sources.
    fn top(
        &self,
        item: &Manifest,
        source: &Source,
        into: &OwnedFd,
        path: &Path,
        name: &BStr,
        cancel: &Cancel,
    ) -> Result<(), CopyError> {
        let (from, there) =
            source.parent_of(item.path()).map_err(|error| source.vanished(item.path(), error))?;
        self.item(item, &Place { source, from: &from, there, into, path, name, cancel })
    }

    fn item(&self, item: &Manifest, at: &Place<'_>) -> Result<(), CopyError> {
        if at.cancel.is_cancelled() {
            return Err(self.fail("copy to", at.path, io::ErrorKind::Interrupted.into()));
        }
        match item {
            Manifest::File { path, sha256 } => self.file(path, sha256, at),
            Manifest::Symlink { path, target } => self.symlink(path, target, at),
            Manifest::Dir { path, children } => self.dir(path, children, at),
        }
    }

    fn file(&self, source: &BString, sha256: &str, at: &Place<'_>) -> Result<(), CopyError> {
        let mut from = open_file(at.from, at.there)
            .map_err(|error| at.source.vanished(source.as_bstr(), error))?;
        let stat = rustix::fs::fstat(&from)
            .map_err(|error| at.source.fail("look at", source.as_bstr(), error.into()))?;
        self.clear(at)?;
        let write = |action| move |error: io::Error| self.fail(action, at.path, error);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(at.into, at.name.as_bytes(), flags, Mode::from_raw_mode(0o600))
            .map_err(|error| write("create")(error.into()))?;
        let mut to = File::from(to);
        let unread = |error| at.source.fail("read", source.as_bstr(), error);
        let copied =
            digest(&mut from, unread, |bytes| to.write_all(bytes).map_err(write("write")))?;
        if copied != sha256 {
            return Err(CopyError::Changed(source.clone()));
        }
        let mode = if stat.st_mode & 0o111 == 0 { 0o644 } else { 0o755 };
        self.finish(&to, &stat, mode).map_err(write("set the owner, mode and time of"))
    }

    fn symlink(&self, source: &BString, target: &BString, at: &Place<'_>) -> Result<(), CopyError> {
        let stat = rustix::fs::statat(at.from, at.there, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| at.source.vanished(source.as_bstr(), error))?;
        self.clear(at)?;
        let name = at.name.as_bytes();
        let made = rustix::fs::symlinkat(target.as_bytes(), at.into, name)
            .and_then(|()| match self.owner {
                Some(owner) => {
                    let (uid, gid) = ids(owner);
                    rustix::fs::chownat(at.into, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                }
                None => Ok(()),
            })
            .and_then(|()| {
                rustix::fs::utimensat(at.into, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)
            });
        made.map_err(|error| self.fail("create the link", at.path, error.into()))
    }

    fn dir(
        &self,
        source: &BString,
        children: &[Manifest],
        at: &Place<'_>,
    ) -> Result<(), CopyError> {
        let from = open_dir(at.from, at.there)
            .map_err(|error| at.source.vanished(source.as_bstr(), error))?;
        let stat = rustix::fs::fstat(&from)
            .map_err(|error| at.source.fail("look at", source.as_bstr(), error.into()))?;
        let into = self.make_dirs(at.path)?;
        for child in children {
            let name = child.name();
            let path = at.path.join(OsStr::from_bytes(name));
            self.item(
                child,
                &Place { from: &from, there: name, into: &into, path: &path, name, ..*at },
            )?;
        }
        if at.path.components().all(|part| part == Component::CurDir) {
            // The root of the tree is the home itself: it keeps its owner, by whom the sandbox knows whose the tree is.
            return Ok(());
        }
        self.finish(&into, &stat, 0o755)
            .map_err(|error| self.fail("set the owner, mode and time of", at.path, error))
    }

    /// Removes a file or link that stands where a new one goes.
    fn clear(&self, at: &Place<'_>) -> Result<(), CopyError> {
        match rustix::fs::unlinkat(at.into, at.name.as_bytes(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Linux says that it is a directory, POSIX and macOS that it is not permitted.
            Err(Errno::ISDIR | Errno::PERM) => Err(CopyError::Target {
                path: at.path.to_owned(),
                why: "there is a directory".to_owned(),
            }),
            Err(error) => Err(self.fail("replace", at.path, error.into())),
        }
    }

    fn finish(&self, file: impl AsFd, stat: &Stat, mode: u32) -> io::Result<()> {
        if let Some(owner) = self.owner {
            let (uid, gid) = ids(owner);
            rustix::fs::fchown(&file, uid, gid)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode as rustix::fs::RawMode))?;
        Ok(rustix::fs::futimens(&file, &times(stat))?)
    }

    /// Opens the directory at `path` below the root, making what is missing and following links inside the tree.
    fn make_dirs(&self, path: &Path) -> Result<OwnedFd, CopyError> {
        let fail = |error: Errno| self.fail("make the directory", path, error.into());
        let root = || self.root.try_clone().map_err(|error| self.fail("open", path, error));
        let mut above = vec![root()?];
        let mut todo = components(path);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let here = above.last().expect("the root stays");
            match self.enter(here, &part).map_err(fail)? {
                Entered::Dir(dir) => above.push(dir),
                Entered::Link(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(fail(Errno::LOOP));
                    }
                    if target.starts_with(b"/") {
                        above = vec![root()?];
                        todo.extend(components(&self.locate(target.as_bstr())?));
                    } else {
                        todo.extend(components(Path::new(OsStr::from_bytes(&target))));
                    }
                }
                Entered::Other => {
                    let why = format!("`{part}` on the way is not a directory");
                    return Err(CopyError::Target { path: path.to_owned(), why });
                }
            }
        }
        Ok(above.pop().expect("the root stays"))
    }

    fn enter(&self, dir: &OwnedFd, name: &BString) -> Result<Entered, Errno> {
        match open_dir(dir, name) {
            Ok(opened) => Ok(Entered::Dir(opened)),
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(dir, name.as_bytes(), Mode::from_raw_mode(0o755))?;
                let made = open_dir(dir, name)?;
                // The process's umask has a say in `mkdirat`.
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                if let Some(owner) = self.owner {
                    let (uid, gid) = ids(owner);
                    rustix::fs::fchown(&made, uid, gid)?;
                }
                Ok(Entered::Dir(made))
            }
            // Linux gives the first for a link, macOS the second.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                match rustix::fs::readlinkat(dir, name.as_bytes(), Vec::new()) {
                    Ok(target) => Ok(Entered::Link(target.into_bytes().into())),
                    Err(Errno::INVAL) => Ok(Entered::Other),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn fail(&self, action: &'static str, path: &Path, source: io::Error) -> CopyError {
        CopyError::Io { action, path: self.path.join(path), source }
    }
}

/// Where one item comes from and goes to.
#[derive(Clone, Copy)]
struct Place<'a> {
    source: &'a Source,
    from: &'a OwnedFd,
    there: &'a [u8],
    into: &'a OwnedFd,
    /// In the tree, relative to its root.
    path: &'a Path,
    name: &'a BStr,
    cancel: &'a Cancel,
}

enum Entered {
    Dir(OwnedFd),
    Link(BString),
    Other,
}

/// The components of a path, the last first.
fn components(path: &Path) -> Vec<BString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(BString::from(name.as_bytes())),
        Component::ParentDir => Some(BString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

fn ids(owner: Owner) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (Some(rustix::fs::Uid::from_raw(owner.uid)), Some(rustix::fs::Gid::from_raw(owner.gid)))
}

/// The source's modification time, as access time too.
fn times(stat: &Stat) -> Timestamps {
    let time =
        rustix::fs::Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}
