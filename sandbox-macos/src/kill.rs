//! Killing everything a step has started.
//!
//! As root, by user: a child becomes the build user and signals everything it may, so nothing that forks or hides in
//! another session escapes. As anybody else, by the keeper.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::launch::{Running, errno, fork};
use crate::platform;

/// How long a process may take to die of SIGKILL before it counts as unkillable.
const PATIENCE: Duration = Duration::from_secs(5);

/// A started command whose processes are killed when this is dropped.
pub(crate) struct Leash {
    running: Option<Running>,
    exit: OwnedFd,
    uid: Option<u32>,
}

impl Leash {
    /// Takes a started command over; `uid` is the build user's, if it has one.
    pub(crate) fn new(mut running: Running, uid: Option<u32>) -> Result<Self> {
        // A keeper closes its pipe when it has done its work.
        let exit = match &running.keeper {
            Some((_, status)) => status.try_clone(),
            None => platform::exit::watch(running.pid),
        };
        match exit {
            Ok(exit) => Ok(Self { running: Some(running), exit, uid }),
            Err(error) => {
                // Closing its pipe makes a keeper kill the rest.
                drop(running.keeper.take());
                let killed = uid.map_or(Ok(true), become_and_kill);
                let reaped = running.reap().map_err(Error::io("wait for the command"));
                killed.and(reaped).and(uid.map_or(Ok(()), everything_of))?;
                Err(Error::io("watch the command")(error))
            }
        }
    }

    /// Becomes readable when the command has ended.
    pub(crate) fn exit(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    /// Waits until the command has ended, however long that takes.
    pub(crate) fn wait_for_exit(&self) -> Result<()> {
        while !readable(self.exit(), Duration::from_secs(3600))? {}
        Ok(())
    }

    /// Kills whatever lives and returns the command's wait status.
    pub(crate) fn end(mut self) -> Result<c_int> {
        self.kill()
    }

    fn kill(&mut self) -> Result<c_int> {
        let Some(mut running) = self.running.take() else { return Ok(0) };
        let ended = match (self.uid, running.keeper.take()) {
            (Some(uid), _) => {
                if !readable(self.exit.as_fd(), Duration::ZERO)? {
                    become_and_kill(uid)?;
                    self.wait(&running)?;
                }
                let status = running.reap();
                everything_of(uid)?;
                status
            }
            (None, Some((tell, status))) => {
                drop(tell);
                self.wait(&running)?;
                let mut word = [0; size_of::<c_int>()];
                let told = File::from(status).read_exact(&mut word);
                let reaped = running.reap();
                if told.is_err() {
                    let what = "their keeper was killed, so nobody knows which live";
                    return Err(Error::Survivors(what.to_owned()));
                }
                reaped.map(|_| c_int::from_ne_bytes(word))
            }
            (None, None) => running.reap(),
        };
        ended.map_err(Error::io("learn how the command ended"))
    }

    fn wait(&self, running: &Running) -> Result<()> {
        if readable(self.exit.as_fd(), PATIENCE)? {
            return Ok(());
        }
        let own = || vec![format!("{} or what it started", running.pid)];
        Err(Error::Survivors(self.uid.map_or_else(own, platform::alive::list).join(", ")))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::error!(%error, "failed to kill what a step has started");
        }
    }
}

/// Kills every process of `uid`, until there is none or patience ends. Needs root.
pub(crate) fn everything_of(uid: u32) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    while become_and_kill(uid)? {
        // Zombies do no harm, and where nobody reaps them they stay.
        let alive = platform::alive::list(uid);
        if alive.is_empty() {
            break;
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::Survivors(alive.join(", ")));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// One round: a child becomes the user and signals everything it may. Says whether it was not alone.
fn become_and_kill(uid: u32) -> Result<bool> {
    let failed = || Error::io(format!("kill the processes of uid {uid}"));
    if uid == 0 {
        return Err(failed()(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    let child = || {
        // SAFETY: plain system calls. Nothing is signalled unless this process has really become the user.
        unsafe {
            platform::alive::before_becoming();
            let became = libc::setgroups(0, std::ptr::null()) == 0 && libc::setuid(uid) == 0;
            if !became || libc::getuid() != uid || libc::geteuid() != uid {
                libc::_exit(errno().clamp(2, 255));
            }
            platform::child::kill_all_others();
            libc::_exit(c_int::from(platform::alive::others()))
        }
    };
    // SAFETY: the child only makes system calls and never returns.
    let pid = unsafe { fork(child) }.map_err(failed())?;
    let status = Running { pid, keeper: None }.reap().map_err(failed())?;
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(false),
        (true, 1) => Ok(true),
        (true, errno) => Err(failed()(io::Error::from_raw_os_error(errno))),
        // Something of the user's shot first; it has been shot at too, or will be in the next round.
        (false, _) => Ok(true),
    }
}

fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], wait) {
            Ok(ready) => return Ok(ready > 0),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(Error::io("wait for the command")(error)),
        }
    }
}
