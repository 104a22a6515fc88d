//! Attributes: reading and changing them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, TimeOrNow};
use rustix::fs::{Gid, OFlags, StatVfs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Result;

use crate::core::Call;
use crate::node::{Node, TOP};
use crate::os::{self, credentials};

/// Attributes, and how long they are good.
pub(crate) type Attributes = (FileAttr, Duration);

/// What is to change.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<TimeOrNow>,
    pub(crate) modified: Option<TimeOrNow>,
}

impl Call<'_> {
    /// Reads attributes, of an open file where `file` says so.
    pub(crate) fn getattr(&self, number: u64, file: Option<u64>) -> Result<Attributes> {
        if let Some(open) = file.and_then(|file| self.core.files.get(file).ok()) {
            return self.read_attributes(&open.node, &open.fd);
        }
        if number == TOP
            && let Some(top) = &self.core.top
        {
            return Ok((top.attributes(TOP), self.core.remember));
        }
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        self.read_attributes(&node, &fd)
    }

    /// Changes attributes; the kernel has checked that the caller may.
    pub(crate) fn setattr(
        &self,
        number: u64,
        file: Option<u64>,
        changes: &Changes,
    ) -> Result<Attributes> {
        let open = file.and_then(|file| self.core.files.get(file).ok());
        let (node, fd) = match &open {
            Some(open) => (open.node.clone(), open.fd.clone()),
            None => {
                let node = self.node(number)?;
                let fd = self.descriptor(&node)?;
                (node, fd)
            }
        };
        if let Some(size) = changes.size {
            self.resize(&node, open.as_ref().map(|open| &open.fd), size)?;
        }
        self.within(&node, || change(&fd, changes))?;
        self.read_attributes(&node, &fd)
    }

    /// Reads where a symlink points.
    pub(crate) fn readlink(&self, number: u64) -> Result<Vec<u8>> {
        let node = self.node(number)?;
        let fd = self.descriptor(&node)?;
        os::special::read_link(fd.as_fd())
    }

    /// How full the filesystem of the caller's tree is.
    pub(crate) fn statfs(&self, number: u64) -> Result<StatVfs> {
        let node = self.node(number)?;
        rustix::fs::fstatvfs(&node.view.top)
    }

    fn read_attributes(&self, node: &Node, fd: &OwnedFd) -> Result<Attributes> {
        if node.is_top()
            && let Some(top) = &self.core.top
        {
            return Ok((top.attributes(TOP), self.core.remember));
        }
        let meta = os::meta::of_fd(fd.as_fd())?;
        let mut attributes = meta.attributes(node.number);
        if node.is_top() && attributes.perm & 0o070 == 0 && self.core.views.differ() {
            // The kernel reads the list of those who may pass only where the group may do anything; see `extended`.
            attributes.perm |= 0o010;
        }
        Ok((attributes, self.attributes_last(node)))
    }

    /// Resizes with the caller's identity, so that the kernel takes away set-user-id as it would for the caller.
    fn resize(&self, node: &Node, open: Option<&Arc<OwnedFd>>, size: u64) -> Result<()> {
        let fresh;
        let fd: &OwnedFd = match open {
            Some(open) => open,
            None => {
                fresh = node.open(OFlags::WRONLY | OFlags::NOFOLLOW)?;
                &fresh
            }
        };
        credentials::as_caller(self.caller, || rustix::fs::ftruncate(fd, size))
    }
}

fn change(fd: &OwnedFd, changes: &Changes) -> Result<()> {
    if changes.uid.is_some() || changes.gid.is_some() {
        let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
        os::special::change_owner(fd.as_fd(), uid, gid)?;
    }
    if let Some(mode) = changes.mode {
        os::special::change_mode(fd.as_fd(), mode)?;
    }
    if changes.accessed.is_some() || changes.modified.is_some() {
        let times = Timestamps {
            last_access: stamp(changes.accessed),
            last_modification: stamp(changes.modified),
        };
        os::special::change_times(fd.as_fd(), &times)?;
    }
    Ok(())
}

fn stamp(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => seconds(time),
    }
}

fn seconds(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) }
        }
        Err(error) => {
            let before = error.duration();
            let short = i64::from(before.subsec_nanos() > 0);
            let nanos =
                if short == 1 { 1_000_000_000 - i64::from(before.subsec_nanos()) } else { 0 };
            Timespec { tv_sec: -(before.as_secs() as i64) - short, tv_nsec: nanos }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_told_as_the_system_counts_them() {
        let time = seconds(UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!((time.tv_sec, time.tv_nsec), (-2, 500_000_000));
        let time = seconds(UNIX_EPOCH - Duration::from_secs(3));
        assert_eq!((time.tv_sec, time.tv_nsec), (-3, 0));
    }
}
