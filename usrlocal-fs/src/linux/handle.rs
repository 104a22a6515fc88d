//! Finding a file again without a path: file handles, which stay good when the file is renamed and go stale when it is removed.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, Result};

use crate::meta::Meta;

/// How a file is opened to be looked at, or below.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

const MOST: usize = libc::MAX_HANDLE_SZ as usize;

/// How many mounts inside one tree are held open. What is in others is found again by its place.
const MOST_MOUNTS: usize = 64;

/// How a node finds its file again.
#[derive(Debug)]
pub(crate) enum Handle {
    /// The filesystem's own name for the file, and the number of the mount that it is in, unless that is the view's own.
    Named { kind: i32, bytes: Box<[u8]>, mount: Option<u64> },
    /// A descriptor that pins the file.
    Held(Arc<OwnedFd>),
    /// Where the filesystem has no handles: its device and inode number, to know it at the place where it was found last.
    Placed { device: u64, inode: u64 },
}

/// The mounts that a view consists of.
#[derive(Debug)]
pub(crate) struct Anchors {
    own: Option<u64>,
    /// A directory of each of the others; none once they were let go of.
    others: Mutex<Option<HashMap<u64, Arc<OwnedFd>>>>,
}

impl Anchors {
    /// Those of a view with this top directory: so far, one.
    pub(crate) fn new(top: BorrowedFd<'_>) -> Self {
        let seen = rustix::fs::statx(top, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        Self {
            own: seen.ok().map(|stat| stat.stx_mnt_id),
            others: Mutex::new(Some(HashMap::new())),
        }
    }

    /// Closes them: what is in mounts inside the tree is not found again.
    pub(crate) fn let_go(&self) {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(others);
    }

    /// The mount `id`, none if it is the view's own, held open from now on: `open` opens a directory in it.
    fn hold(&self, id: u64, open: impl FnOnce() -> Result<OwnedFd>) -> Option<Option<u64>> {
        if self.own.is_none_or(|own| own == id) {
            return Some(None);
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let others = others.as_mut()?;
        if !others.contains_key(&id) {
            let fresh = (others.len() < MOST_MOUNTS).then(|| open().ok()).flatten()?;
            others.insert(id, Arc::new(fresh));
        }
        Some(Some(id))
    }

    fn held(&self, id: u64) -> Result<Arc<OwnedFd>> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.as_ref().and_then(|others| others.get(&id)).cloned().ok_or(Errno::STALE)
    }
}

#[repr(C)]
struct Buffer {
    len: u32,
    kind: i32,
    bytes: [u8; MOST],
}

impl Handle {
    /// The handle of the entry `name`; the caller checks that it is the file it means.
    pub(crate) fn of_entry(
        dir: BorrowedFd<'_>,
        name: &CStr,
        meta: &Meta,
        anchors: &Anchors,
    ) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(dir, name, flags, Mode::empty());
        Self::named_or_placed(named(dir, name, 0), meta, anchors, open)
    }

    /// The handle of an open file.
    pub(crate) fn of_fd(fd: BorrowedFd<'_>, meta: &Meta, anchors: &Anchors) -> Result<Self> {
        let named = named(fd, c"", libc::AT_EMPTY_PATH);
        Self::named_or_placed(named, meta, anchors, || Err(Errno::NOTDIR))
    }

    fn named_or_placed(
        named: Result<(Self, u64)>,
        meta: &Meta,
        anchors: &Anchors,
        open: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<Self> {
        match named {
            Ok((Self::Named { kind, bytes, .. }, id)) => {
                if let Some(mount) = anchors.hold(id, open) {
                    return Ok(Self::Named { kind, bytes, mount });
                }
            }
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => {}
            Err(error) => return Err(error),
        }
        Ok(Self::Placed { device: meta.device, inode: meta.inode })
    }

    /// The device and inode number of what is found again only where it was found last.
    pub(crate) fn placed(&self) -> Option<(u64, u64)> {
        match self {
            Self::Placed { device, inode } => Some((*device, *inode)),
            _ => None,
        }
    }

    /// Whether both are the same file, as far as the handles tell.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named { kind, bytes, .. }, Self::Named { kind: k, bytes: b, .. }) => {
                kind == k && bytes == b
            }
            _ => true,
        }
    }

    /// A number that is another one for most other files.
    pub(crate) fn digest(&self) -> u64 {
        let Self::Named { bytes, .. } = self else { return 0 };
        bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(1_000_003) ^ u64::from(*byte))
    }

    /// Opens the file, in a view with this top directory and these mounts.
    pub(crate) fn open(
        &self,
        top: BorrowedFd<'_>,
        anchors: &Anchors,
        flags: OFlags,
    ) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        match self {
            Self::Named { kind, bytes, mount: None } => open_named(top, *kind, bytes, flags),
            Self::Named { kind, bytes, mount: Some(id) } => {
                open_named(anchors.held(*id)?.as_fd(), *kind, bytes, flags)
            }
            Self::Placed { .. } => Err(Errno::STALE),
            Self::Held(fd) if flags.contains(OFlags::PATH) => {
                Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)
            }
            Self::Held(fd) => {
                let path = super::special::proc_path(fd.as_fd());
                rustix::fs::open(path.as_c_str(), flags - OFlags::NOFOLLOW, Mode::empty())
            }
        }
    }
}

/// The handle of a file, and which mount it is in.
fn named(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<(Handle, u64)> {
    let mut buffer = Buffer { len: MOST as u32, kind: 0, bytes: [0; MOST] };
    let mut mount = 0;
    // SAFETY: `buffer` has the layout of `struct file_handle` with room for `len` bytes, `name` ends with a NUL.
    let done = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            name.as_ptr(),
            (&raw mut buffer).cast(),
            &raw mut mount,
            flags,
        )
    };
    if done != 0 {
        return Err(last_error());
    }
    let bytes = buffer.bytes[..buffer.len as usize].into();
    Ok((Handle::Named { kind: buffer.kind, bytes, mount: None }, mount as u64))
}

fn open_named(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut buffer = Buffer { len: bytes.len() as u32, kind, bytes: [0; MOST] };
    buffer.bytes[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `buffer` has the layout of `struct file_handle`, and the call only reads it.
    let fd = unsafe {
        libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut buffer).cast(), flags.bits() as i32)
    };
    if fd < 0 {
        return Err(last_error());
    }
    // SAFETY: the call succeeded, so `fd` is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
