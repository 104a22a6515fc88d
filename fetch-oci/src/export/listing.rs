//! Everything in a tree, sorted by path.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{At, Result};
use crate::tree::{self, Cursor, Fail};

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Its path; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) kind: FileType,
    /// Permissions with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    /// Of a regular file; 0 for all else.
    pub(super) size: u64,
    pub(super) inode: (u64, u64),
    pub(super) links: u64,
    pub(super) device: u64,
    /// Of a symbolic link.
    pub(super) target: Vec<u8>,
}

/// A tree as it is now.
pub(super) struct Listing {
    pub(super) root: PathBuf,
    /// Sorted by path, so that a directory comes before what is in it.
    pub(super) nodes: Vec<Node>,
    at: std::cell::RefCell<Cursor>,
}

/// Names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl Listing {
    /// Looks at the tree at `root`. Sockets, which no image can have, are left out.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let fd = Rc::new(tree::open_root(root).at("open", root)?);
        let mut at = Cursor::new(fd.clone());
        let stat = rustix::fs::fstat(&*fd).at("read", root)?;
        let mut nodes = vec![node(Vec::new(), &stat, Vec::new())];
        let mut dirs = vec![Vec::new()];
        while let Some(dir) = dirs.pop() {
            let path = root.join(String::from_utf8_lossy(&dir).as_ref());
            let all = children(&mut at, &dir).at("list", &path)?;
            let inner = all.iter().filter(|node| node.kind == FileType::Directory);
            dirs.extend(inner.map(|node| node.path.clone()));
            nodes.extend(all);
        }
        nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { root: root.to_owned(), nodes, at: at.into() })
    }

    /// The node at `path`.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.path.as_slice().cmp(path)).ok()?;
        Some(&self.nodes[at])
    }

    /// Opens a file or directory.
    pub(super) fn open(&self, node: &Node) -> Result<OwnedFd> {
        let open = || {
            let names = tree::names(&node.path).map_err(|_| Errno::NAMETOOLONG)?;
            let Some((name, parents)) = names.split_last() else {
                return tree::open_root(&self.root);
            };
            let dir = self.at.borrow_mut().enter(parents, &mut Fail)?;
            // Were it replaced by a FIFO meanwhile, opening it must not wait.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&*dir, &**name, flags, Mode::empty())
        };
        open().at("open", self.path(node))
    }

    /// The extended attributes of a file or directory that say something of it, sorted by name.
    pub(super) fn xattrs(&self, node: &Node) -> Result<Xattrs> {
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Ok(Vec::new());
        }
        xattrs(&self.open(node)?).at("read the extended attributes of", self.path(node))
    }

    /// Where a node is, for messages.
    pub(super) fn path(&self, node: &Node) -> PathBuf {
        self.root.join(String::from_utf8_lossy(&node.path).as_ref())
    }
}

fn children(at: &mut Cursor, dir: &[u8]) -> io::Result<Vec<Node>> {
    let names = tree::names(dir).map_err(io::Error::other)?;
    let fd = at.enter(&names, &mut Fail)?;
    let mut nodes = Vec::new();
    for entry in Dir::read_from(&*fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&*fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut path = dir.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let kind = FileType::from_raw_mode(stat.st_mode);
        let target = match kind {
            FileType::Socket => continue,
            FileType::Symlink => rustix::fs::readlinkat(&*fd, name, Vec::new())?,
            _ => CString::default(),
        };
        nodes.push(node(path, &stat, target.into_bytes()));
    }
    Ok(nodes)
}

// The fields of `stat` have other types on other platforms.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn node(path: Vec<u8>, stat: &Stat, target: Vec<u8>) -> Node {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    Node {
        path,
        kind,
        mode: (stat.st_mode as u32) & 0o7777,
        uid: stat.st_uid as u32,
        gid: stat.st_gid as u32,
        mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        size: if kind == FileType::RegularFile { stat.st_size as u64 } else { 0 },
        inode: (stat.st_dev as u64, stat.st_ino as u64),
        links: stat.st_nlink as u64,
        device: if device { stat.st_rdev as u64 } else { 0 },
        target,
    }
}

fn xattrs(file: &OwnedFd) -> rustix::io::Result<Xattrs> {
    let mut names = Vec::with_capacity(65_536);
    match rustix::fs::flistxattr(file, spare_capacity(&mut names)) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        let Some(c_name) = CString::new(name).ok().filter(|_| crate::unpack::is_kept(name)) else {
            continue;
        };
        let mut value = Vec::with_capacity(65_536);
        match rustix::fs::fgetxattr(file, &*c_name, spare_capacity(&mut value)) {
            Ok(_) => all.push((name.to_vec(), value)),
            // Gone since it was listed, or not for our eyes.
            Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_unstable();
    Ok(all)
}
