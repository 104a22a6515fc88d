//! A terminal of the command's own, shown on the caller's.
//!
//! Whoever has a terminal may type on it for others (`TIOCSTI`), so the build user never gets the administrator's. It gets
//! a pseudo-terminal instead; what is typed goes in, and what is shown comes out.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use obuilder_core::step::Owner;
use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use crate::follow::Stop;

/// Signals after which a command must end.
const ENDING: [c_int; 3] = [SIGHUP, SIGINT, SIGTERM];
/// Most that is shown after everything has been killed: more than any terminal holds.
const REST: usize = 1 << 20;

/// The caller's terminal in raw mode, and the other side of the command's.
pub(crate) struct Relay {
    master: File,
    before: Termios,
    resized: Told,
    ended: Told,
}

/// Tells of signals for as long as it lives.
struct Told {
    pipe: PipeReader,
    ids: Vec<SigId>,
}

impl Told {
    fn of(signals: &[c_int]) -> io::Result<Self> {
        let (pipe, write) = io::pipe()?;
        let mut told = Self { pipe, ids: Vec::new() };
        for signal in signals {
            told.ids.push(signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?);
        }
        Ok(told)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        for id in &self.ids {
            signal_hook::low_level::unregister(*id);
        }
    }
}

impl Relay {
    /// Makes a terminal like the one on standard input, for `owner`; also its side for the command.
    pub(crate) fn new(owner: Owner) -> io::Result<(Self, OwnedFd)> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let pty = openpty(None, &before)?;
        fcntl_setfd(&pty.master, FdFlags::CLOEXEC)?;
        fcntl_setfd(&pty.slave, FdFlags::CLOEXEC)?;
        ioctl_fionbio(&pty.master, true)?;
        // For programs that open it by its name.
        std::os::unix::fs::fchown(&pty.slave, Some(owner.uid), None)?;
        let (resized, ended) = (Told::of(&[SIGWINCH])?, Told::of(&ENDING)?);
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let relay = Self { master: pty.master.into(), before, resized, ended };
        relay.resize();
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok((relay, pty.slave))
    }

    /// Gives the command's terminal the size of the caller's; its kernel tells the command.
    fn resize(&self) {
        // SAFETY: both calls get a pointer to a window size that outlives them.
        unsafe {
            let mut size: libc::winsize = std::mem::zeroed();
            if libc::ioctl(0, libc::TIOCGWINSZ, &mut size) == 0 {
                libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size);
            }
        }
    }

    /// Carries both ways until `exit` is readable, or a signal or the end of the caller's terminal ends it all.
    pub(crate) fn carry(&mut self, exit: BorrowedFd<'_>) -> io::Result<Stop> {
        let mut typed = Vec::new();
        let mut open = true;
        loop {
            // What has been typed is taken in before more is read.
            let idle = typed.is_empty();
            let [done, ended, resized, ready_in, ready_out] = self.wait(exit, idle, open)?;
            if done {
                return Ok(Stop::Ended);
            }
            if ended {
                return Ok(Stop::Cancelled);
            }
            if resized {
                let _ = self.resized.pipe.read(&mut [0; 64])?;
                self.resize();
            }
            if ready_out {
                self.put_in(&mut typed)?;
                open = self.show()?.is_some();
            }
            // Where nothing was asked for, only its end can have been told.
            if ready_in && (!idle || !read_typed(&mut typed)?) {
                return Ok(Stop::Cancelled);
            }
            if !open {
                typed.clear();
            }
        }
    }

    /// Waits until something can be done, and says what.
    fn wait(&self, exit: BorrowedFd<'_>, idle: bool, open: bool) -> io::Result<[bool; 5]> {
        let stdin = io::stdin();
        let (from, to) = match idle {
            true => (PollFlags::POLLIN, PollFlags::empty()),
            false => (PollFlags::empty(), PollFlags::POLLOUT),
        };
        let mut fds = vec![
            PollFd::new(exit, PollFlags::POLLIN),
            PollFd::new(self.ended.pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.resized.pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), from),
        ];
        if open {
            fds.push(PollFd::new(self.master.as_fd(), PollFlags::POLLIN | to));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => return Ok([false; 5]),
            polled => polled?,
        };
        let ready = |n: usize| fds.get(n).is_some_and(|fd| fd.any().unwrap_or(false));
        Ok([0, 1, 2, 3, 4].map(ready))
    }

    /// Shows what is still to be shown, when nobody is left to write more.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut total = 0;
        while let Some(shown @ 1..) = self.show()? {
            total += shown;
            if total > REST {
                break;
            }
        }
        Ok(())
    }

    fn put_in(&mut self, typed: &mut Vec<u8>) -> io::Result<()> {
        match self.master.write(typed) {
            Ok(written) => drop(typed.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::EIO) => typed.clear(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Shows what is there, and says how much that was; `None` when nobody has the command's side open any more.
    fn show(&mut self) -> io::Result<Option<usize>> {
        let mut buffer = [0; 1 << 14];
        match self.master.read(&mut buffer) {
            Ok(0) => Ok(None),
            Ok(read) => show_on_caller(&buffer[..read]).map(|()| Some(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(0)),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Past the buffers of this process; says whether the terminal is still there.
fn read_typed(typed: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match rustix::io::read(io::stdin(), &mut buffer) {
        Ok(read) => {
            typed.extend_from_slice(&buffer[..read]);
            Ok(read > 0)
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::IO) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn show_on_caller(shown: &[u8]) -> io::Result<()> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    if stdout.is_terminal() {
        let mut stdout = stdout.lock();
        return stdout.write_all(shown).and_then(|()| stdout.flush());
    }
    if stderr.is_terminal() {
        return stderr.lock().write_all(shown);
    }
    File::from(io::stdin().as_fd().try_clone_to_owned()?).write_all(shown)
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before) {
            tracing::warn!(%error, "failed to bring the terminal back to what it was");
        }
    }
}
