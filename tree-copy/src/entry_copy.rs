//! Copies one entry of a directory that is not a directory itself.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::attributes;
use crate::contents::copy_contents;
use crate::copy::{Copier, How, Pair};
use crate::error::Error;
use crate::links::Turn;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::platform;
use crate::walk::Visitor;

impl Copier<'_> {
    /// Copies `entry` from one side of `dir` to the other.
    pub(crate) fn copy_entry(
        &self,
        dir: &Pair,
        place: &Arc<Place>,
        entry: &Entry,
    ) -> Result<(), Error> {
        let name = entry.name.as_c_str();
        if entry.kind == FileType::RegularFile {
            return self.copy_regular(dir, place, name);
        }
        let meta =
            Meta::at(&dir.from, name).map_err(|e| self.error("read", place, Some(name), e))?;
        self.once_per_inode(dir, place, name, &meta, || self.copy_special(dir, place, name, &meta))
    }

    /// Copies with `copy` unless the inode has a copy already; then links to that.
    pub(crate) fn once_per_inode(
        &self,
        dir: &Pair,
        place: &Arc<Place>,
        name: &CStr,
        meta: &Meta,
        copy: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        if meta.nlink < 2 {
            return copy().map(|made| self.count(made));
        }
        match self.links.turn(meta.inode()) {
            Turn::Copy(maker) => {
                let made = copy()?;
                if made {
                    maker.made(place, name);
                }
                self.count(made);
            }
            Turn::Link(first, first_name) => {
                let first = self.to.reopen(&first)?;
                rustix::fs::linkat(&first, &first_name, &dir.to, name, AtFlags::empty())
                    .map_err(|e| self.to_error("link", place, Some(name), e))?;
                self.count(true);
            }
            Turn::Failed => self.tally.skip(self.path(place, Some(name))),
        }
        Ok(())
    }

    /// Copies an entry whatever other names its inode has; says whether it could be.
    pub(crate) fn copy_alone(
        &self,
        dir: &Pair,
        place: &Place,
        name: &CStr,
        meta: &Meta,
    ) -> Result<bool, Error> {
        if meta.kind != FileType::RegularFile {
            return self.copy_special(dir, place, name, meta);
        }
        let (from, meta) = self.open_regular(dir, place, name)?;
        self.copy_file(from, dir, place, name, &meta).map(|()| true)
    }

    fn count(&self, made: bool) {
        self.tally.entries.fetch_add(made.into(), Ordering::Relaxed);
    }

    fn copy_regular(&self, dir: &Pair, place: &Arc<Place>, name: &CStr) -> Result<(), Error> {
        let (from, meta) = self.open_regular(dir, place, name)?;
        self.once_per_inode(dir, place, name, &meta, || {
            self.copy_file(from, dir, place, name, &meta).map(|()| true)
        })
    }

    fn open_regular(
        &self,
        dir: &Pair,
        place: &Place,
        name: &CStr,
    ) -> Result<(OwnedFd, Meta), Error> {
        // Were it replaced by a FIFO since it was listed, opening it must not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let failed = |action, e| self.error(action, place, Some(name), e);
        let from = rustix::fs::openat(&dir.from, name, flags, Mode::empty())
            .map_err(|e| failed("open", e))?;
        let meta = Meta::of(&from).map_err(|e| failed("read", e))?;
        if meta.kind != FileType::RegularFile {
            return Err(failed("read", Errno::STALE));
        }
        Ok((from, meta))
    }

    fn copy_file(
        &self,
        from: impl AsFd,
        dir: &Pair,
        place: &Place,
        name: &CStr,
        meta: &Meta,
    ) -> Result<(), Error> {
        let from = from.as_fd();
        let failed = |action| move |e| self.to_error(action, place, Some(name), e);
        let clone = meta.size > 0 && self.clone.load(Ordering::Relaxed);
        let (to, cloned) =
            platform::make_file(from, dir.to.as_fd(), name, clone, attributes::first_mode(meta))
                .map_err(failed("create"))?;
        if clone && cloned.is_ok() {
            self.tally.cloned.fetch_add(1, Ordering::Relaxed);
        } else if meta.size > 0 {
            if let (true, Err(error)) = (clone, cloned) {
                self.cannot_clone(error).map_err(failed("clone"))?;
            }
            let sparse = meta.allocated < meta.size;
            let bytes = copy_contents(from, to.as_fd(), meta.size, sparse, &|| self.cancelled())
                .map_err(failed("write"))?;
            self.tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let lost = attributes::copy_to_open(from, to.as_fd(), meta, self.options.owners)
            .map_err(failed("set the attributes of"))?;
        self.tally.lost(lost);
        Ok(())
    }

    /// What a refused clone means: where it was only a try, all further files are copied.
    fn cannot_clone(&self, error: Errno) -> rustix::io::Result<()> {
        let never = [Errno::OPNOTSUPP, Errno::XDEV, Errno::INVAL, Errno::NOTTY, Errno::NOSYS];
        if self.options.how == How::Reflink || !never.contains(&error) {
            return Err(error);
        }
        self.clone.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Copies a link, FIFO or device; says whether it was made.
    fn copy_special(
        &self,
        dir: &Pair,
        place: &Place,
        name: &CStr,
        meta: &Meta,
    ) -> Result<bool, Error> {
        let to = dir.to.as_fd();
        let made = match meta.kind {
            FileType::Symlink => rustix::fs::readlinkat(&dir.from, name, Vec::new())
                .and_then(|target| rustix::fs::symlinkat(target, to, name)),
            FileType::Fifo => platform::make_fifo(to, name),
            FileType::CharacterDevice | FileType::BlockDevice => {
                platform::make_device(to, name, meta.kind, meta.rdev)
            }
            _ => Err(Errno::PERM),
        };
        match made {
            Ok(()) => {}
            Err(Errno::PERM | Errno::NOTSUP) if meta.kind != FileType::Symlink => {
                self.tally.skip(self.path(place, Some(name)));
                return Ok(false);
            }
            Err(error) => return Err(self.to_error("create", place, Some(name), error)),
        }
        let from = dir.from.as_fd();
        let lost = attributes::copy_to_name(from, to, name, meta, self.options.owners)
            .map_err(|e| self.to_error("set the attributes of", place, Some(name), e))?;
        self.tally.lost(lost);
        Ok(true)
    }
}
