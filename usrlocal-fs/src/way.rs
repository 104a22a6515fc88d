//! The way from the root directory to what a user sees, as far as it is root's alone, and from there on.
//!
//! A path is followed with the server's rights only where nobody but root can change it. From the first directory that somebody
//! else may write to, no symlink is followed, and the user whom it is for must be able to walk it: so a path that was good
//! when the administrator wrote it down leads to nothing that the user could not see anyway.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fuser::FileType;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::call::Caller;
use crate::meta::Meta;
use crate::os::handle::LOOK;
use crate::os::{self, credentials};

/// How many symlinks may be on a way, as for the system itself.
const MOST_LINKS: usize = 40;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// Where to go.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    pub(crate) tree: PathBuf,
    /// A directory in the tree.
    pub(crate) below: Arc<Path>,
    /// Where not to go: their server would wait for itself.
    pub(crate) mounts: Arc<[PathBuf]>,
}

/// A way that was gone, and how to see that it still leads to the same place.
#[derive(Debug)]
pub(crate) struct Way {
    goal: Goal,
    /// A path that leads as far as the way is root's alone; none where that is amid the target of a symlink.
    head: Option<CString>,
    /// The directory there.
    held: OwnedFd,
    /// What follows.
    rest: CString,
}

/// Why a way cannot be gone.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: Errno,
    pub(crate) why: String,
}

type Outcome<T> = std::result::Result<T, Refused>;

impl Refused {
    fn at(place: &Path, why: &str) -> impl FnOnce(Errno) -> Self {
        let why = format!("`{}` {why}", place.display());
        move |error| Self { error, why }
    }
}

impl Way {
    /// Finds the way to `goal` for `caller`, and opens what is there.
    pub(crate) fn find(goal: Goal, caller: Caller) -> Outcome<(Self, OwnedFd)> {
        let walk = Walk::along(&goal)?;
        let mut inside = walk.another()?;
        if walk.left.is_empty() {
            inside.left = names(&goal.below, Part::Below);
            while inside.step(&goal)? {}
        } else {
            inside.left.splice(0..0, names(&goal.below, Part::Below));
        }
        let way = walk.end(goal)?;
        let rest = inside.rest(&way.goal)?;
        let reached = if inside.left.is_empty() {
            os::special::reopen_directory(inside.dir.as_fd())
        } else {
            let reach = || os::special::open_beneath(inside.dir.as_fd(), &rest);
            credentials::as_caller(caller, reach)
                .and_then(|top| os::special::reopen_directory(top.as_fd()))
        };
        let why = "is not root's alone, and its user cannot walk on from there without symlinks";
        let top = reached.map_err(Refused::at(&inside.at, why))?;
        Ok((way, top))
    }

    /// The device and inode number of what is there now.
    pub(crate) fn leads_to(&self) -> Result<(u64, u64)> {
        let held = os::meta::of_fd(self.held.as_fd())?;
        let now = match &self.head {
            Some(head) => os::meta::of_path(head)?,
            None => Walk::along(&self.goal).map_err(|refused| refused.error)?.meta,
        };
        if (now.device, now.inode) != (held.device, held.inode) {
            return Err(Errno::STALE);
        }
        let meta = match self.rest.as_bytes() {
            b"" => held,
            name if !name.contains(&b'/') => os::meta::of_entry(self.held.as_fd(), &self.rest)?,
            _ => {
                let top = os::special::open_beneath(self.held.as_fd(), &self.rest)?;
                os::meta::of_fd(top.as_fd())?
            }
        };
        Ok((meta.device, meta.inode))
    }
}

/// Somewhere on the way, where everything so far was root's alone.
struct Walk {
    dir: OwnedFd,
    meta: Meta,
    /// Where that is, without symlinks.
    at: PathBuf,
    /// What is left to walk, the next name last.
    left: Vec<(OsString, Part)>,
    links: usize,
}

/// What a name is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The path of the tree.
    Tree,
    /// The target of a symlink on it.
    Target,
    /// What is in the tree.
    Below,
}

impl Walk {
    /// Goes to the tree, as far as the way is root's alone.
    fn along(goal: &Goal) -> Outcome<Self> {
        let (dir, meta) = open_root()?;
        let left = names(&goal.tree, Part::Tree);
        let mut walk = Self { dir, meta, at: PathBuf::from("/"), left, links: 0 };
        while walk.step(goal)? {}
        Ok(walk)
    }

    /// The same place once more.
    fn another(&self) -> Outcome<Self> {
        let dir = os::special::duplicate(&self.dir);
        let dir = dir.map_err(Refused::at(&self.at, "cannot be opened twice"))?;
        let (at, left) = (self.at.clone(), self.left.clone());
        Ok(Self { dir, meta: self.meta, at, left, links: self.links })
    }

    /// Goes one name further; says whether it could.
    fn step(&mut self, goal: &Goal) -> Outcome<bool> {
        let Some((name, part)) = self.left.last().cloned() else { return Ok(false) };
        let at = match self.at.parent() {
            Some(parent) if name == ".." => parent.to_owned(),
            None if name == ".." => self.at.clone(),
            _ => self.at.join(&name),
        };
        goal.may_lead_to(&at)?;
        let roots = self.meta.uid == 0;
        let alone = roots && self.meta.mode & OTHERS_WRITE == 0;
        if !(alone || roots && self.meta.mode & STICKY != 0) {
            return Ok(false);
        }
        let flags = LOOK | OFlags::CLOEXEC;
        let entry = rustix::fs::openat(&self.dir, &name, flags, Mode::empty())
            .and_then(|entry| Ok((os::meta::of_fd(entry.as_fd())?, entry)));
        let (meta, entry) = entry.map_err(Refused::at(&at, "cannot be opened"))?;
        // Where all may write but each remove only what is its own, nobody else can have put a directory of root's that
        // only root may write to, or take it away.
        let roots = meta.uid == 0 && meta.mode & OTHERS_WRITE == 0;
        if !(alone || roots && meta.kind() == FileType::Directory) {
            return Ok(false);
        }
        self.left.pop();
        match meta.kind() {
            FileType::Directory => (self.dir, self.meta, self.at) = (entry, meta, at),
            FileType::Symlink if part != Part::Below => self.follow(&name, &at)?,
            _ => return Err(Refused::at(&at, "is no directory")(Errno::NOTDIR)),
        }
        Ok(true)
    }

    fn follow(&mut self, name: &OsStr, at: &Path) -> Outcome<()> {
        self.links += 1;
        let target = if self.links > MOST_LINKS {
            Err(Errno::LOOP)
        } else {
            rustix::fs::readlinkat(&self.dir, name, Vec::new())
        };
        let target = target.map_err(Refused::at(at, "is a symlink that leads nowhere"))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            (self.dir, self.meta) = open_root()?;
            self.at = PathBuf::from("/");
        }
        self.left.extend(names(&target, Part::Target));
        Ok(())
    }

    /// What is left, which is to be a plain path.
    fn rest(&self, goal: &Goal) -> Outcome<CString> {
        let rest: PathBuf = self.left.iter().rev().map(|(name, _)| name).collect();
        if rest.components().any(|part| part == Component::ParentDir) {
            return Err(Refused::at(&self.at, "is not root's alone, and `..` follows")(
                Errno::LOOP,
            ));
        }
        goal.may_lead_to(&self.at.join(&rest))?;
        text(&rest)
    }

    fn end(mut self, goal: Goal) -> Outcome<Way> {
        let amid_target = self.left.iter().any(|(_, part)| *part == Part::Target);
        let mut all = names(&goal.tree, Part::Tree);
        let walked = all.drain(self.left.len().min(all.len())..).rev().map(|(name, _)| name);
        let head = Path::new("/").join(walked.collect::<PathBuf>());
        self.left.splice(0..0, names(&goal.below, Part::Below));
        let rest = self.rest(&goal)?;
        let head = if amid_target { None } else { Some(text(&head)?) };
        Ok(Way { head, held: self.dir, rest, goal })
    }
}

impl Goal {
    fn may_lead_to(&self, at: &Path) -> Outcome<()> {
        match self.mounts.iter().find(|mount| at.starts_with(mount)) {
            Some(_) => Err(Refused::at(at, "is served by the server itself")(Errno::LOOP)),
            None => Ok(()),
        }
    }
}

/// The names of a path, the first one last.
fn names(path: &Path, part: Part) -> Vec<(OsString, Part)> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(named).map(|name| (name.as_os_str().to_owned(), part)).collect()
}

fn open_root() -> Outcome<(OwnedFd, Meta)> {
    let root = rustix::fs::open("/", LOOK | OFlags::CLOEXEC, Mode::empty())
        .and_then(|root| Ok((os::meta::of_fd(root.as_fd())?, root)));
    let (meta, root) = root.map_err(Refused::at(Path::new("/"), "cannot be opened"))?;
    Ok((root, meta))
}

fn text(path: &Path) -> Outcome<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Refused::at(path, "holds a NUL")(Errno::INVAL))
}
