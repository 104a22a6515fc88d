//! Killing everything a step has started.
//!
//! As root, by user: a child becomes the build user and signals everything it may, so nothing that forks or hides in
//! another session escapes. As anybody else, by the keeper.

use std::ffi::c_int;
use std::fmt;
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
/// How long one round of killing may take.
const ROUND: Duration = Duration::from_secs(1);
/// How often nobody must be seen where no round has succeeded.
const LOOKS: u32 = 3;
/// Added to errno in a killer's exit status: 0 and 1 say whether it was alone.
const ERRNO: c_int = 128;

/// A process that lives.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: libc::pid_t,
    /// Where the system tells.
    pub(crate) name: Option<String>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.pid),
            None => self.pid.fmt(f),
        }
    }
}

/// A started command whose processes are killed when this is dropped.
pub(crate) struct Leash {
    running: Option<Running>,
    exit: OwnedFd,
    uid: Option<u32>,
}

impl Leash {
    /// Takes a started command over; `uid` is the build user's, if it has one. After a failure nothing of it lives,
    /// unless the error is [`Error::Survivors`].
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
                uid.map_or(Ok(()), everything_of)?;
                match running.reap_within(PATIENCE) {
                    Ok(Some(_)) => Err(Error::io("watch the command")(error)),
                    _ => Err(Error::Survivors(format!("{} or what it started", running.pid))),
                }
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

    /// Kills whatever lives and returns the command's wait status. Whenever it is not certain that nothing lives any
    /// more, the error is [`Error::Survivors`], and only then.
    pub(crate) fn end(mut self) -> Result<c_int> {
        self.kill().map_err(Error::into_survivors)
    }

    fn kill(&mut self) -> Result<c_int> {
        let Some(mut running) = self.running.take() else { return Ok(0) };
        match (self.uid, running.keeper.take()) {
            (Some(uid), _) => self.kill_user(uid, &mut running),
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
                reaped.map(|_| c_int::from_ne_bytes(word)).map_err(not_learnt)
            }
            (None, None) => running.reap().map_err(not_learnt),
        }
    }

    fn kill_user(&self, uid: u32, running: &mut Running) -> Result<c_int> {
        platform::services::stop_of(uid);
        if !readable(self.exit.as_fd(), Duration::ZERO).unwrap_or(false) {
            everything_of(uid)?;
            self.wait(running)?;
        }
        let status = running.reap().map_err(not_learnt);
        everything_of(uid)?;
        status
    }

    fn wait(&self, running: &Running) -> Result<()> {
        if readable(self.exit.as_fd(), PATIENCE)? {
            return Ok(());
        }
        Err(Error::Survivors(format!("{} or what it started", running.pid)))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::error!(%error, "failed to kill what a step has started");
        }
    }
}

/// Kills every process of `uid`, until there is none or patience ends. Needs root. Any error means that some may live.
pub(crate) fn everything_of(uid: u32) -> Result<()> {
    if uid == 0 {
        return Err(failed(uid)(io::ErrorKind::InvalidInput.into()));
    }
    in_rounds(uid, || become_and_kill(uid).map_err(failed(uid)))
}

/// Goes on with `round`, which says whether it has left anybody; where it fails, root kills them one by one.
fn in_rounds(uid: u32, mut round: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    let mut quiet = 0;
    loop {
        let left = round();
        if matches!(left, Ok(false)) {
            return Ok(());
        }
        // Zombies do no harm, and where nobody reaps them they stay.
        let alive = platform::alive::list(uid).map_err(failed(uid))?;
        quiet = if alive.is_empty() { quiet + 1 } else { 0 };
        // A look that follows no round may miss what forks meanwhile.
        if quiet >= if left.is_ok() { 1 } else { LOOKS } {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(left
                .err()
                .filter(|_| alive.is_empty())
                .map_or_else(|| Error::Survivors(names(&alive)), Error::into_survivors));
        }
        if let Err(error) = left {
            tracing::warn!(%error, "killing one by one");
            for process in &alive {
                platform::alive::kill(process.pid, uid);
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// For a message.
pub(crate) fn names(processes: &[Process]) -> String {
    processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn failed(uid: u32) -> impl FnOnce(io::Error) -> Error {
    Error::io(format!("kill the processes of uid {uid}"))
}

fn not_learnt(error: io::Error) -> Error {
    Error::io("learn how the command ended")(error)
}

/// One round: a child becomes the user and signals everything it may. Says whether it was not alone.
fn become_and_kill(uid: u32) -> io::Result<bool> {
    let child = || {
        // SAFETY: plain system calls. Nothing is signalled unless this process has really become the user.
        unsafe {
            // Whatever becomes of this process, it holds no lock.
            platform::child::close_all();
            platform::alive::before_becoming();
            if libc::setgroups(0, std::ptr::null()) == -1 || become_and_kill_others(uid) == -1 {
                libc::_exit(errno().clamp(1, 125) + ERRNO);
            }
            libc::_exit(c_int::from(platform::alive::others()))
        }
    };
    // SAFETY: the child only makes system calls and never returns.
    let pid = unsafe { fork(child) }?;
    let mut killer = Running { pid, keeper: None };
    let Some(status) = killer.reap_within(ROUND)? else {
        // Somebody has stopped it.
        // SAFETY: the child is ours and has not been waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        killer.reap_within(ROUND)?;
        return Err(io::ErrorKind::TimedOut.into());
    };
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(false),
        (true, 1) => Ok(true),
        (true, errno) => Err(io::Error::from_raw_os_error(errno - ERRNO)),
        // Something of the user's shot first; it has been shot at too, or will be in the next round.
        (false, _) => Ok(true),
    }
}

/// Becomes `uid` for good, kills every other process of it, and forgets its keys. -1 and errno on failure.
///
/// # Safety
/// Only for a child between fork and exec, which has one thread.
pub(crate) unsafe fn become_and_kill_others(uid: u32) -> c_int {
    // SAFETY: plain system calls. Who may signal the first process may signal everybody, and must not.
    unsafe {
        if uid == 0 || platform::child::become_killer(uid) == -1 {
            return -1;
        }
        if libc::geteuid() != uid || libc::getuid() == 0 || libc::kill(1, 0) == 0 {
            return platform::child::refuse();
        }
        platform::child::kill_all_others();
        // The saved one follows.
        let became = libc::setreuid(uid, uid);
        platform::child::forget_keys();
        became
    }
}

pub(crate) fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests are here")]

    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    /// Nobody has it; each test adds to it.
    const UID: u32 = 60_990;

    fn sleeper(uid: u32) -> Option<Child> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root has build users");
            return None;
        }
        Some(Command::new("sleep").arg("60").uid(uid).spawn().unwrap())
    }

    fn refused() -> Result<bool> {
        Err(failed(UID)(io::ErrorKind::WouldBlock.into()))
    }

    #[test]
    fn where_no_process_can_be_made_root_kills_one_by_one() {
        let (Some(mut victim), Some(mut other)) = (sleeper(UID), sleeper(UID + 1)) else { return };
        in_rounds(UID, refused).unwrap();
        assert_eq!(platform::alive::list(UID).unwrap().len(), 0);
        assert!(other.try_wait().unwrap().is_none(), "somebody else's was killed");
        everything_of(UID + 1).unwrap();
        assert!(!victim.wait().unwrap().success() && !other.wait().unwrap().success());
    }

    #[test]
    fn a_round_spares_other_users_and_root() {
        let (Some(mut victim), Some(mut other)) = (sleeper(UID + 2), sleeper(UID + 3)) else {
            return;
        };
        let mut own = Command::new("sleep").arg("60").spawn().unwrap();
        everything_of(UID + 2).unwrap();
        assert!(!victim.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none() && own.try_wait().unwrap().is_none());
        for child in [&mut other, &mut own] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn whatever_is_not_known_to_be_dead_counts_as_alive() {
        let error = refused().unwrap_err().into_survivors();
        assert!(matches!(&error, Error::Survivors(what) if what.contains("uid 60990")), "{error}");
        assert!(everything_of(0).is_err());
    }
}
