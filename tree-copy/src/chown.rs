//! Gives a tree to one owner.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Uid};

use crate::error::Error;
use crate::listing::Entry;
use crate::meta::Meta;
use crate::place::Place;
use crate::queue;
use crate::walk::{Inspect, Root, walk};

/// Makes `uid` and `gid` the owner of `path` and of everything below it, touching only what has another owner.
/// Returns how many entries changed.
///
/// Devices keep their owner, or whoever is given the tree could open what they stand for, such as the host's disk.
/// Links are changed themselves, never followed. As always when an owner changes, files lose setuid and setgid.
pub fn chown_tree(path: &Path, uid: u32, gid: u32) -> Result<u64, Error> {
    let root = Root::open(path)?;
    let chown = Chown { root, uid, gid, changed: AtomicU64::new(0) };
    chown.give(chown.root.fd(), c".", &Place::default())?;
    walk(&chown, chown.root.start()?, queue::default_threads())?;
    Ok(chown.changed.into_inner())
}

struct Chown<'a> {
    root: Root<'a>,
    uid: u32,
    gid: u32,
    changed: AtomicU64,
}

impl Chown<'_> {
    fn give(&self, dir: BorrowedFd<'_>, name: &CStr, place: &Place) -> Result<(), Error> {
        let failed = |e| self.error("change the owner of", place, Some(name), e);
        let meta = Meta::at(dir, name).map_err(failed)?;
        let device = matches!(meta.kind, FileType::CharacterDevice | FileType::BlockDevice);
        if device || (meta.uid, meta.gid) == (self.uid, self.gid) {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
        self.changed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Inspect for Chown<'_> {
    fn root(&self) -> &Root<'_> {
        &self.root
    }

    fn visit(&self, dir: &OwnedFd, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        entries.iter().try_for_each(|entry| self.give(dir.as_fd(), &entry.name, place))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr)]

    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::platform;

    #[test]
    fn devices_are_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for (name, kind) in [(c"disk", FileType::BlockDevice), (c"null", FileType::CharacterDevice)]
        {
            // The number of `null`, which does no harm, or of no block device.
            if platform::make_device(root.fd(), name, kind, 0x103).is_err() {
                eprintln!("SKIP: no devices can be made");
                return;
            }
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(chown_tree(dir.path(), 54_321, 54_321).unwrap(), 2, "the root and the file");
        let owner = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap().uid();
        assert_eq!((owner("disk"), owner("null"), owner("file")), (0, 0, 54_321));
    }
}
