//! A small process that outlives the server and takes its mounts away when it dies without doing so.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::{ForkResult, Pid};

use crate::error::{Error, Result};
use crate::os;

/// A message to the small process: a place in its list of mounts, and a device.
const MESSAGE: usize = 16;

/// The small process, as its parent sees it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pid: Pid,
    /// Its other end tells the small process that we are gone, or that all is well.
    line: std::fs::File,
}

impl Supervisor {
    /// Starts the small process. Call it before anything is mounted, so that it holds no end of a mount.
    pub(crate) fn start(mount_points: &[PathBuf]) -> Result<Self> {
        let names = |at: &PathBuf| CString::new(at.as_os_str().as_bytes());
        let mounts: std::result::Result<Vec<_>, _> = mount_points.iter().map(names).collect();
        let mounts =
            mounts.map_err(|error| Error::io("name a mount point")(std::io::Error::from(error)))?;
        let (ours, theirs) = pipe()?;
        let devices = vec![None; mounts.len()];
        // SAFETY: between fork and exit the child makes system calls and touches memory that it has; it allocates
        // nothing and takes no lock, which another thread may have held.
        match unsafe { nix::unistd::fork() }.map_err(Error::io("start the supervisor"))? {
            ForkResult::Parent { child } => Ok(Self { pid: child, line: theirs.into() }),
            ForkResult::Child => watch(&ours, &mounts, devices),
        }
    }

    /// Says that the mount point of this place in the list now shows `device`; no other is ever taken away.
    pub(crate) fn mounted(&mut self, place: usize, device: u64) -> Result<()> {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&(place as u64).to_ne_bytes());
        message[8..].copy_from_slice(&device.to_ne_bytes());
        self.line.write_all(&message).map_err(Error::io("tell the supervisor of a mount"))
    }

    /// Says that everything is unmounted; ends the small process.
    pub(crate) fn dismiss(mut self) {
        if let Err(error) = self.line.write_all(&[0xff; MESSAGE]) {
            tracing::warn!(%error, "the supervisor could not be told that all is well");
        }
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = nix::unistd::pipe().map_err(Error::io("make a pipe"))?;
    for end in [&ours, &theirs] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)
            .map_err(Error::io("prepare a pipe"))?;
    }
    Ok((ours, theirs))
}

/// Waits for the server's end of the pipe to close, then detaches what it has not unmounted. Async-signal-safe.
fn watch(line: &OwnedFd, mounts: &[CString], mut devices: Vec<Option<u64>>) -> ! {
    let line = line.as_raw_fd();
    // SAFETY: system calls on plain numbers; this process has one thread.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    os::supervisor::close_others(line);
    while let Some((place, device)) = receive(line) {
        match devices.get_mut(place as usize) {
            Some(slot) => *slot = Some(device),
            // SAFETY: ends this process without running anything of the parent's.
            None => unsafe { libc::_exit(0) },
        }
    }
    for (mount, device) in mounts.iter().zip(devices) {
        if device.is_some() && os::special::device_without_asking(mount).ok() == device {
            os::mount::detach(mount);
        }
    }
    // SAFETY: as above.
    unsafe { libc::_exit(1) }
}

/// The next message; none when the server is gone.
fn receive(line: i32) -> Option<(u64, u64)> {
    let mut message = [0u8; MESSAGE];
    let mut have = 0;
    while have < MESSAGE {
        // SAFETY: reads into what is left of `message`.
        let read = unsafe { libc::read(line, message[have..].as_mut_ptr().cast(), MESSAGE - have) };
        match read {
            1.. => have += read as usize,
            // SAFETY: the pointer is this thread's own and always good.
            -1 if unsafe { *os::supervisor::errno() } == libc::EINTR => {}
            _ => return None,
        }
    }
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| message[at + index]));
    Some((number(0), number(8)))
}
