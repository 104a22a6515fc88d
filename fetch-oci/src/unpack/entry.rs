//! Makes what one entry of a layer stands for.

use std::ffi::{CStr, CString};
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use bstr::ByteSlice;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Directory};
use super::{Unpacker, contents};
use crate::tar_stream::{Entry, Kind, TarStream};
use crate::tree::{self, Fail, Missing, Names};

/// How long all default ACLs of an image may be together, as they are kept until its end; the rest is lost.
const MOST_ACL_BYTES: usize = 64 << 20;

/// Why an entry could not be made.
pub(super) enum Failure {
    /// It may not be in an image.
    Entry(&'static str),
    /// The operating system refused, or the archive is damaged.
    Io(io::Error),
    /// The token was cancelled.
    Cancelled,
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

pub(super) type Done<T = ()> = Result<T, Failure>;

/// Makes the directories that archives leave out, with a time that is the same wherever that is done.
struct Implied<'a> {
    made: &'a mut Vec<Names>,
}

impl Missing for Implied<'_> {
    fn make(&mut self, dir: &OwnedFd, parents: &[CString], name: &CStr) -> rustix::io::Result<()> {
        rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
        let mut place = parents.to_vec();
        place.push(name.to_owned());
        self.made.push(place);
        Ok(())
    }
}

impl Unpacker<'_> {
    /// Makes `entry`, whose contents are next in `stream`.
    pub(super) fn entry<R: BufRead>(&mut self, entry: &Entry, stream: &mut TarStream<R>) -> Done {
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let names = tree::names(&entry.path).map_err(Failure::Entry)?;
        let Some((name, parents)) = names.split_last() else { return self.root_entry(entry) };
        let dir = self.parent(parents)?;
        if let Some(hidden) = name.to_bytes().strip_prefix(b".wh.").filter(|_| self.whiteouts) {
            return self.whiteout(&dir, hidden);
        }
        let mut place = self.at.place();
        place.push(name.clone());
        match &entry.kind {
            Kind::File => self.file(&dir, name, &place, entry, stream)?,
            Kind::Dir => self.directory(&dir, name, &place, entry)?,
            Kind::Symlink(target) => self.symlink(&dir, name, &place, entry, target)?,
            Kind::Link(target) => self.link(&dir, name, &place, target)?,
            Kind::Fifo | Kind::Device { .. } => self.special(&dir, name, &place, entry)?,
        }
        self.note(&place);
        Ok(())
    }

    /// The tree's own root. It stays the caller's: who gives the tree to somebody goes by its owner to see whether that was done,
    /// and an image could claim that it was.
    fn root_entry(&mut self, entry: &Entry) -> Done {
        if entry.kind != Kind::Dir {
            return Err(Failure::Entry("would replace the root of the image"));
        }
        let root = self.root.clone();
        self.attributes_of_dir(&root, Vec::new(), entry, false)
    }

    /// The directory that holds an entry, made if it is not there.
    fn parent(&mut self, parents: &[CString]) -> Done<Rc<OwnedFd>> {
        let mut made = Vec::new();
        let dir = match self.at.enter(parents, &mut Implied { made: &mut made }) {
            Ok(dir) => dir,
            Err(Errno::NOTDIR | Errno::INVAL) => {
                return Err(Failure::Entry("lies below something that is no directory"));
            }
            Err(Errno::LOOP) => return Err(Failure::Entry("lies behind a loop of links")),
            Err(error) => return Err(error.into()),
        };
        for place in &made {
            let later = Directory { mode: Some(0o755), mtime: (0, 0), default_acl: None };
            self.dirs.insert(tree::key(place), later);
            self.note(place);
            self.count(0).map_err(|error| Failure::Io(error.into_io()))?;
        }
        // Its time is kept, unless the archive has another one for it.
        if let std::collections::btree_map::Entry::Vacant(vacant) =
            self.dirs.entry(tree::key(&self.at.place()))
        {
            vacant.insert(Directory::as_it_is(&dir)?);
        }
        Ok(dir)
    }

    fn file<R: BufRead>(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        place: &Names,
        entry: &Entry,
        stream: &mut TarStream<R>,
    ) -> Done {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_bits_retain((entry.mode & 0o777 | 0o600) as _);
        let file = self.in_place_of(dir, name, place, || {
            rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, mode)
        })?;
        contents(stream, self.cancel, |chunk| rustix::io::write(&file, chunk))?;
        self.done.lost_attributes += attributes::of_file(&file, entry, self.is_root)?;
        Ok(())
    }

    fn directory(&mut self, dir: &OwnedFd, name: &CStr, place: &Names, entry: &Entry) -> Done {
        let there = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => None,
            Err(Errno::EXIST) => tree::open_dir(dir, name).ok(),
            Err(error) => return Err(error.into()),
        };
        let opened = match there {
            Some(opened) => {
                attributes::clear(&opened)?;
                opened
            }
            None => {
                // Either it was made just now, or what is there is no directory.
                match tree::open_dir(dir, name) {
                    Ok(opened) => opened,
                    Err(_) => {
                        self.in_place_of(dir, name, place, || {
                            rustix::fs::mkdirat(dir, name, Mode::RWXU)
                        })?;
                        tree::open_dir(dir, name)?
                    }
                }
            }
        };
        self.attributes_of_dir(&opened, tree::key(place), entry, self.is_root)
    }

    fn attributes_of_dir(
        &mut self,
        dir: &OwnedFd,
        key: Vec<u8>,
        entry: &Entry,
        give: bool,
    ) -> Done {
        let (mut later, lost) = attributes::of_dir(dir, entry, give)?;
        self.done.lost_attributes += lost;
        self.acl_bytes += later.default_acl.as_ref().map_or(0, Vec::len);
        if self.acl_bytes > MOST_ACL_BYTES && later.default_acl.take().is_some() {
            self.done.lost_attributes += 1;
        }
        self.dirs.insert(key, later);
        Ok(())
    }

    fn symlink(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        place: &Names,
        entry: &Entry,
        target: &[u8],
    ) -> Done {
        let target = CString::new(target).map_err(|_| Failure::Entry("leads nowhere"))?;
        self.in_place_of(dir, name, place, || rustix::fs::symlinkat(&*target, dir, name))?;
        self.done.lost_attributes += attributes::of_name(dir, name, entry, self.is_root)?;
        Ok(())
    }

    fn link(&mut self, dir: &OwnedFd, name: &CStr, place: &Names, target: &[u8]) -> Done {
        let names = tree::names(target).map_err(|_| Failure::Entry("links out of the image"))?;
        let missing = Failure::Entry("links to something that is not there before it");
        let Some((target_name, parents)) = names.split_last() else { return Err(missing) };
        let target_dir = match self.other.enter(parents, &mut Fail) {
            Ok(target_dir) => target_dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => return Err(missing),
            Err(error) => return Err(error.into()),
        };
        let mut target_place = self.other.place();
        target_place.push(target_name.clone());
        if target_place == *place {
            return Err(Failure::Entry("links to itself"));
        }
        // Looked at first, so that nothing is removed for a link that cannot be made.
        match rustix::fs::statat(&*target_dir, &**target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Failure::Entry("is a hard link to a directory"));
            }
            Ok(_) => {}
            Err(Errno::NOENT) => return Err(missing),
            Err(error) => return Err(error.into()),
        }
        self.in_place_of(dir, name, place, || {
            rustix::fs::linkat(&*target_dir, &**target_name, dir, name, AtFlags::empty())
        })
    }

    fn special(&mut self, dir: &OwnedFd, name: &CStr, place: &Names, entry: &Entry) -> Done {
        let mode = Mode::from_bits_retain((entry.mode & 0o777) as _);
        // What stands for a part of this machine is root's alone, whatever the image says.
        let device = matches!(entry.kind, Kind::Device { .. }).then(|| Entry {
            uid: 0,
            gid: 0,
            ..entry.clone()
        });
        let mode = if device.is_some() { mode & (Mode::RUSR | Mode::WUSR) } else { mode };
        let made = match entry.kind {
            Kind::Device { block, major, minor } if self.options.devices && self.is_root => {
                let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let device = rustix::fs::makedev(major, minor) as u64;
                self.in_place_of(dir, name, place, || {
                    tree_copy::make_device(dir, name, kind, device, mode)
                })
            }
            Kind::Device { .. } => Err(Errno::NOTSUP.into()),
            _ => self.in_place_of(dir, name, place, || tree_copy::make_fifo(dir, name, mode)),
        };
        match made {
            Err(Failure::Io(error))
                if Errno::from_io_error(&error).is_some_and(|e| e == Errno::NOTSUP) =>
            {
                let path = PathBuf::from(entry.path.to_path_lossy().as_ref());
                self.leave_out(path);
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                let entry = device.as_ref().unwrap_or(entry);
                self.done.lost_attributes += attributes::of_name(dir, name, entry, self.is_root)?;
                Ok(())
            }
        }
    }

    /// Calls `make`, which must fail where there is something, after removing what there is.
    fn in_place_of<T>(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        place: &Names,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Done<T> {
        match make() {
            Err(Errno::EXIST) => {}
            made => return Ok(made?),
        }
        self.remove(dir, name, place)?;
        Ok(make()?)
    }

    /// Removes what lies at `name`, with all that is below it.
    pub(super) fn remove(&mut self, dir: &OwnedFd, name: &CStr, place: &Names) -> Done {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        self.forget(place);
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            removed => return Ok(removed?),
        }
        // However deep it is, from the root it can be removed by its path.
        loop {
            self.removed += 1;
            let aside = format!(".obuild-removed-{}", self.removed);
            if rustix::fs::statat(&*self.root, &*aside, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            self.keep_time_of_root()?;
            rustix::fs::renameat(dir, name, &*self.root, &*aside)?;
            let removed = tree_copy::remove_tree(&self.path.join(aside));
            return removed.map_err(|error| Failure::Io(io::Error::other(error)));
        }
    }

    fn keep_time_of_root(&mut self) -> Done {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.dirs.entry(Vec::new()) {
            vacant.insert(Directory::as_it_is(&self.root)?);
        }
        Ok(())
    }
}
