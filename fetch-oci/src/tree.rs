//! The tree that layers are unpacked into, walked by descriptors and never out of it.
//!
//! A path in an archive is resolved here, one component after the other, as it would be with the tree as the root
//! directory: an absolute link begins again at the tree's root, and `..` never leads above that. The kernel never follows a
//! link for us.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Directories below each other are at most so many.
pub(crate) const DEEPEST: usize = 512;

/// No system takes a longer name, in bytes.
const LONGEST_NAME: usize = 255;

/// Nor a longer path; that what is remembered of an entry is small is for us to see to.
const LONGEST_PATH: usize = 4096;

/// More links on the way to one place are a loop, as for the kernel.
const MOST_LINKS: usize = 40;

/// The lowest directories of a path stay open, no more than this.
const MOST_OPEN: usize = 32;

/// The names that lead from the tree's root to something in it; none is empty, `.` or `..`.
pub(crate) type Names = Vec<CString>;

/// Parts a path of an archive; the error says what is wrong with it.
pub(crate) fn names(path: &[u8]) -> std::result::Result<Names, &'static str> {
    if path.len() > LONGEST_PATH {
        return Err("has a path that is too long");
    }
    let mut all = Names::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("leads out of the image"),
            name if hidden(name).len() > LONGEST_NAME => return Err("has a name that is too long"),
            name => all.push(CString::new(name).map_err(|_| "has a zero byte in its name")?),
        }
    }
    if all.len() > DEEPEST { Err("lies too deep") } else { Ok(all) }
}

/// What a whiteout hides; any other name is its own.
fn hidden(name: &[u8]) -> &[u8] {
    name.strip_prefix(b".wh.").unwrap_or(name)
}

/// The path of `names`, for messages and as a key.
pub(crate) fn key(names: &[CString]) -> Vec<u8> {
    let parts: Vec<_> = names.iter().map(|name| name.to_bytes()).collect();
    parts.join(&b'/')
}

/// The names that `key` was made of.
pub(crate) fn names_of(key: &[u8]) -> Names {
    let parts = key.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    parts.filter_map(|part| CString::new(part).ok()).collect()
}

/// Opens the directory `name` in `dir`, never through a link.
pub(crate) fn open_dir(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens the root of a tree, which must not be a link.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// A place in the tree that moves: what lies on the way to the next one stays open.
pub(crate) struct Cursor {
    root: Rc<OwnedFd>,
    /// Directories, none of them a link, from the root down.
    stack: Vec<(CString, Option<Rc<OwnedFd>>)>,
}

/// What to do about a directory that is not there.
pub(crate) trait Missing {
    /// Makes `name` in `dir`, whose real place is `parents`, or fails with `ENOENT`.
    fn make(&mut self, dir: &OwnedFd, parents: &[CString], name: &CStr) -> Result<()>;
}

/// Nothing: it is an error.
pub(crate) struct Fail;

impl Missing for Fail {
    fn make(&mut self, _dir: &OwnedFd, _parents: &[CString], _name: &CStr) -> Result<()> {
        Err(Errno::NOENT)
    }
}

impl Cursor {
    pub(crate) fn new(root: Rc<OwnedFd>) -> Self {
        Self { root, stack: Vec::new() }
    }

    /// Goes to the directory at `path`, following links within the tree; `missing` is asked for what is not there.
    pub(crate) fn enter(
        &mut self,
        path: &[CString],
        missing: &mut impl Missing,
    ) -> Result<Rc<OwnedFd>> {
        let mut todo: Vec<CString> = path.iter().rev().cloned().collect();
        let (mut depth, mut links) = (0_usize, 0);
        while let Some(name) = todo.pop() {
            match name.to_bytes() {
                b"" | b"." => continue,
                b".." => {
                    depth = depth.saturating_sub(1);
                    continue;
                }
                _ => {}
            }
            if self.stack.get(depth).is_some_and(|(there, _)| *there == name) {
                depth += 1;
                continue;
            }
            self.stack.truncate(depth);
            // Links may lead to where no path of the archive could.
            let length: usize = self.stack.iter().map(|(name, _)| name.count_bytes() + 1).sum();
            if depth >= DEEPEST || length + name.count_bytes() > LONGEST_PATH {
                return Err(Errno::NAMETOOLONG);
            }
            match self.push(&name, missing)? {
                None => depth += 1,
                Some(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.to_bytes().starts_with(b"/") {
                        depth = 0;
                    }
                    let parts = target.to_bytes().split(|byte| *byte == b'/').rev();
                    todo.extend(parts.filter_map(|part| CString::new(part).ok()));
                }
            }
        }
        self.stack.truncate(depth);
        self.top()
    }

    /// Where the cursor really is.
    pub(crate) fn place(&self) -> Names {
        self.stack.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Must be called when the directory at the real place `gone` is removed or moved.
    pub(crate) fn forget(&mut self, gone: &[CString]) {
        let same = self.stack.iter().zip(gone).take_while(|((name, _), gone)| name == *gone);
        if same.count() == gone.len() {
            self.stack.truncate(gone.len().saturating_sub(1));
        }
    }

    /// Opens `name` in the present directory; where it is a link, gives its target instead.
    fn push(&mut self, name: &CStr, missing: &mut impl Missing) -> Result<Option<CString>> {
        let dir = self.top()?;
        let mut opened = open_dir(&*dir, name);
        if opened.as_ref().is_err_and(|error| *error == Errno::NOENT) {
            missing.make(&dir, &self.place(), name)?;
            opened = open_dir(&*dir, name);
        }
        match opened {
            Ok(fd) => {
                self.stack.push((name.to_owned(), Some(Rc::new(fd))));
                if let Some(far) = self.stack.len().checked_sub(MOST_OPEN + 1) {
                    self.stack[far].1 = None;
                }
                Ok(None)
            }
            // Which of the two a link gives depends on the system.
            Err(error @ (Errno::LOOP | Errno::NOTDIR | Errno::MLINK)) => {
                rustix::fs::readlinkat(&*dir, name, Vec::new()).map(Some).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    /// The present directory, opened again where it had been closed.
    fn top(&mut self) -> Result<Rc<OwnedFd>> {
        let open = self.stack.iter().rposition(|(_, fd)| fd.is_some());
        let mut at = match open {
            Some(at) => self.stack[at].1.clone().unwrap_or_else(|| self.root.clone()),
            None => self.root.clone(),
        };
        for level in &mut self.stack[open.map_or(0, |at| at + 1)..] {
            at = Rc::new(open_dir(&*at, &level.0)?);
        }
        if let Some((_, fd)) = self.stack.last_mut() {
            *fd = Some(at.clone());
        }
        Ok(at)
    }
}
