//! Finding a file again without a path: file handles, which stay good when the file is renamed and go stale when it is removed.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

/// How a file is opened to be looked at, or below.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

const MOST: usize = libc::MAX_HANDLE_SZ as usize;

/// How a node finds its file again.
#[derive(Debug)]
pub(crate) enum Handle {
    /// The filesystem's own name for the file.
    Named { kind: i32, bytes: Box<[u8]> },
    /// A descriptor that pins the file, where the filesystem has no handles.
    Held(Arc<OwnedFd>),
}

#[repr(C)]
struct Buffer {
    len: u32,
    kind: i32,
    bytes: [u8; MOST],
}

impl Handle {
    /// The handle of the entry `name`; the caller checks that it is the file it means.
    pub(crate) fn of_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        match named(dir, name, 0) {
            Ok(handle) => Ok(handle),
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => Self::held(dir, name),
            Err(error) => Err(error),
        }
    }

    /// A handle that pins the entry `name`.
    pub(crate) fn held(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self::Held(Arc::new(rustix::fs::openat(dir, name, flags, Mode::empty())?)))
    }

    /// The handle of an open file.
    pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> Result<Self> {
        match named(fd, c"", libc::AT_EMPTY_PATH) {
            Ok(handle) => Ok(handle),
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => {
                Self::held(rustix::fs::CWD, &super::special::proc_path(fd))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether both are the same file, as far as the handles tell.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named { kind, bytes }, Self::Named { kind: k, bytes: b }) => {
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

    /// Opens the file. `mount` is any open file on the same filesystem.
    pub(crate) fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        match self {
            Self::Named { kind, bytes } => open_named(mount, *kind, bytes, flags),
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

fn named(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<Handle> {
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
    Ok(Handle::Named { kind: buffer.kind, bytes: buffer.bytes[..buffer.len as usize].into() })
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
