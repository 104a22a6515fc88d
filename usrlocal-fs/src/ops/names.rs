//! Entries of directories: looking up, making, renaming, removing.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode};
use rustix::io::{Errno, Result};

use crate::core::{Call, entry_name};
use crate::meta::Meta;
use crate::node::Node;
use crate::os::{self, credentials};

/// A file that was looked up or made.
pub(crate) struct Found {
    pub(crate) node: Arc<Node>,
    pub(crate) meta: Meta,
    pub(crate) name_lasts: Duration,
    pub(crate) attributes_last: Duration,
}

/// A directory to work in: its node and a descriptor.
struct Place {
    node: Arc<Node>,
    fd: Arc<OwnedFd>,
}

impl Call<'_> {
    /// Finds an entry. `Ok(Err(..))` says for how long there is none.
    pub(crate) fn lookup(
        &self,
        parent: u64,
        name: &OsStr,
    ) -> Result<std::result::Result<Found, Duration>> {
        let name = entry_name(name)?;
        let place = self.place(parent)?;
        match self.find(&place, &name) {
            Ok(found) => Ok(Ok(found)),
            Err(Errno::NOENT) if !place.node.is_top() => Ok(Err(self.core.remember)),
            Err(error) => Err(error),
        }
    }

    /// Makes a directory.
    pub(crate) fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, umask: u32) -> Result<Found> {
        self.make(parent, name, umask, mode, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode((mode & 0o7777) as _))
        })
    }

    /// Makes a file, a fifo, a socket or a device.
    pub(crate) fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
    ) -> Result<Found> {
        self.make(parent, name, umask, mode, |dir, name| {
            os::special::make_node(dir.as_fd(), name, mode, device)
        })
    }

    /// Makes a symlink.
    pub(crate) fn symlink(&self, parent: u64, name: &OsStr, target: &OsStr) -> Result<Found> {
        let target = CString::new(target.as_bytes()).map_err(|_| Errno::INVAL)?;
        self.make(parent, name, 0, 0, |dir, name| rustix::fs::symlinkat(&target, dir, name))
    }

    /// Makes a hard link.
    pub(crate) fn link(&self, file: u64, parent: u64, name: &OsStr) -> Result<Found> {
        let file = self.node(file)?;
        let from = self.descriptor(&file)?;
        let place = self.place(parent)?;
        if file.view.index != place.node.view.index {
            return Err(Errno::XDEV);
        }
        let name = entry_name(name)?;
        credentials::as_caller(self.caller, || {
            os::special::link(from.as_fd(), place.fd.as_fd(), &name)
        })?;
        self.find(&place, &name)
    }

    /// Removes an entry; `flags` say whether it is a directory.
    pub(crate) fn remove(&self, parent: u64, name: &OsStr, flags: AtFlags) -> Result<()> {
        let name = entry_name(name)?;
        let place = self.place(parent)?;
        credentials::as_caller(self.caller, || rustix::fs::unlinkat(&place.fd, &name, flags))
    }

    /// Renames an entry, but not to the top from further below: the kernel would remember the name there for as long as it
    /// was good below, and show it to the next user. It is as if the top were another filesystem.
    pub(crate) fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Result<()> {
        let (old_name, new_name) = (entry_name(from.1)?, entry_name(to.1)?);
        let (old, new) = (self.place(from.0)?, self.place(to.0)?);
        let rises = match (old.node.is_top(), new.node.is_top()) {
            (false, true) => true,
            (true, false) => os::special::exchanges(flags),
            _ => false,
        };
        if rises || old.node.view.index != new.node.view.index {
            return Err(Errno::XDEV);
        }
        credentials::as_caller(self.caller, || {
            os::special::rename((old.fd.as_fd(), &old_name), (new.fd.as_fd(), &new_name), flags)
        })?;
        self.moved(&new, &new_name);
        if os::special::exchanges(flags) {
            self.moved(&old, &old_name);
        }
        Ok(())
    }

    fn place(&self, number: u64) -> Result<Place> {
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        Ok(Place { node, fd })
    }

    fn find(&self, place: &Place, name: &CStr) -> Result<Found> {
        let dir = place.fd.as_fd();
        let meta = self.within(&place.node, || os::meta::of_entry(dir, name))?;
        let node = self.enter_entry(&place.node, dir, name, &meta)?;
        Ok(Found {
            name_lasts: self.names_last(&place.node),
            attributes_last: self.attributes_last(&node),
            node,
            meta,
        })
    }

    /// The node of an entry whose attributes were just read.
    pub(crate) fn enter_entry(
        &self,
        parent: &Arc<Node>,
        dir: std::os::fd::BorrowedFd<'_>,
        name: &CStr,
        meta: &Meta,
    ) -> Result<Arc<Node>> {
        let view = &parent.view;
        let node = self.core.nodes.enter(view, meta, &self.core.metrics, || {
            let handle = os::handle::Handle::of_entry(dir, name, meta, &view.anchors)?;
            // The entry may have been replaced since its attributes were read. (Handles are opaque: no two filesystems put
            // the same into them.)
            let again = os::meta::of_entry(dir, name)?;
            let same = (again.device, again.inode, again.born, again.kind())
                == (meta.device, meta.inode, meta.born, meta.kind());
            if same { Ok(handle) } else { Err(Errno::STALE) }
        })?;
        node.found_at(parent, name);
        if parent.is_top() {
            self.core.first_names.told(name, view.index);
        }
        Ok(node)
    }

    /// An entry was renamed to this: what has no handle is to be found here.
    fn moved(&self, place: &Place, name: &CStr) {
        let nodes = &self.core.nodes;
        let meta = os::meta::of_entry(place.fd.as_fd(), name);
        let number = meta.map(|meta| nodes.known(&place.node.view, meta.device, meta.inode));
        if let Ok(node) = number.and_then(|number| nodes.get(number)) {
            node.found_at(&place.node, name);
        }
    }

    fn make(
        &self,
        parent: u64,
        name: &OsStr,
        umask: u32,
        mode: u32,
        work: impl Fn(&OwnedFd, &CStr) -> Result<()>,
    ) -> Result<Found> {
        let name = entry_name(name)?;
        let place = self.place(parent)?;
        credentials::set_umask(umask)?;
        let made = || work(&place.fd, &name);
        if mode & 0o2000 != 0 {
            credentials::as_caller_in_groups(self.caller, made)?;
        } else {
            credentials::as_caller(self.caller, made)?;
        }
        self.find(&place, &name)
    }
}
