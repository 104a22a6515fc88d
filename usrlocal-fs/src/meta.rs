//! What is known of a file: its identity and its attributes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, INodeNo};

/// A point in time as files have it: seconds since 1970, which may be negative, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl Time {
    fn to_system(self) -> SystemTime {
        let nanos = Duration::from_nanos(u64::from(self.nanoseconds));
        if self.seconds >= 0 {
            UNIX_EPOCH + Duration::from_secs(self.seconds.unsigned_abs()) + nanos
        } else {
            UNIX_EPOCH - Duration::from_secs(self.seconds.unsigned_abs()) + nanos
        }
    }
}

/// The attributes of a file, with what tells it from every other one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// When the file was made: tells it from an older one that had the same inode number. Not every filesystem knows.
    pub(crate) born: Option<Time>,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) size: u64,
    /// In units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) block_size: u32,
    pub(crate) accessed: Time,
    pub(crate) modified: Time,
    pub(crate) changed: Time,
}

impl Meta {
    /// A directory of root's in which everybody may write, made just now.
    ///
    /// It belongs to a group of nobody's that may do nothing: Linux asks for the access list of a mount's top directory anew
    /// each time, unless the group has no rights that a list could narrow.
    pub(crate) fn everybodys() -> Self {
        const NOBODYS_GROUP: u32 = 0x7fff_fffe;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Time { seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos() };
        Self {
            device: 0,
            inode: 0,
            born: Some(now),
            mode: 0o040_707,
            links: 2,
            uid: 0,
            gid: NOBODYS_GROUP,
            rdev: 0,
            size: 4096,
            blocks: 8,
            block_size: 4096,
            accessed: now,
            modified: now,
            changed: now,
        }
    }

    /// What kind of file it is.
    pub(crate) fn kind(&self) -> fuser::FileType {
        kind_of_mode(self.mode)
    }

    /// Set-user-id or set-group-id.
    pub(crate) fn runs_as_another(&self) -> bool {
        self.mode & 0o6000 != 0
    }

    /// The attributes as the kernel wants them, under the node number `node`.
    pub(crate) fn attributes(&self, node: u64) -> FileAttr {
        FileAttr {
            ino: INodeNo(node),
            size: self.size,
            blocks: self.blocks,
            atime: self.accessed.to_system(),
            mtime: self.modified.to_system(),
            ctime: self.changed.to_system(),
            crtime: self.born.unwrap_or_default().to_system(),
            kind: self.kind(),
            perm: (self.mode & 0o7777) as u16,
            nlink: self.links,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            blksize: self.block_size,
            flags: 0,
        }
    }
}

/// The kind of file that a mode names.
pub(crate) fn kind_of_mode(mode: u32) -> fuser::FileType {
    match mode & 0o170_000 {
        0o010_000 => fuser::FileType::NamedPipe,
        0o020_000 => fuser::FileType::CharDevice,
        0o040_000 => fuser::FileType::Directory,
        0o060_000 => fuser::FileType::BlockDevice,
        0o120_000 => fuser::FileType::Symlink,
        0o140_000 => fuser::FileType::Socket,
        _ => fuser::FileType::RegularFile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = Time { seconds: -2, nanoseconds: 500_000_000 };
        assert_eq!(
            UNIX_EPOCH.duration_since(time.to_system()).unwrap(),
            Duration::from_millis(1500)
        );
    }
}
