//! Starting a command: fork, become the build user, exec.
//!
//! Between fork and exec the child of a process with several threads may only make system calls, so everything is
//! made ready in a [`Launch`] before.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use obuilder_core::step::Owner;

use crate::kill::{become_and_kill_others, readable};
use crate::limits::Bounds;
use crate::platform;
use crate::platform::confine::Confinement;

/// A command, ready to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Files to try to execute, in this order.
    pub(crate) programs: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) envp: Vec<CString>,
    /// The working directory, and all that lead to it from the home on, outermost first.
    pub(crate) workdirs: Vec<CString>,
    /// Whom to become.
    pub(crate) owner: Option<Owner>,
    /// Whether to leave the host's network.
    pub(crate) isolate_network: bool,
    /// What else keeps the step apart.
    pub(crate) confinement: Confinement,
    pub(crate) session: Session,
}

/// Whom a command shares its terminal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// A session of its own, without a terminal.
    Own,
    /// A session of its own, on the terminal that is its standard input.
    OwnTerminal,
    /// The caller's session, in the foreground of its terminal if there is one.
    Callers,
}

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Session,
    Descriptors,
    Network,
    World,
    Limits,
    Identity,
    Workdir,
    Seal,
    Exec,
}

impl Stage {
    const ALL: [Self; 9] = [
        Self::Session,
        Self::Descriptors,
        Self::Network,
        Self::World,
        Self::Limits,
        Self::Identity,
        Self::Workdir,
        Self::Seal,
        Self::Exec,
    ];

    /// Completes "failed to …".
    pub(crate) fn action(self) -> &'static str {
        match self {
            Self::Session => "start a session for the command",
            Self::Descriptors => "set up the command's standard streams",
            Self::Network => "make a network namespace",
            Self::World => "give the step its own view of the filesystem",
            Self::Limits => "limit what the command may use",
            Self::Identity => "become the build user",
            Self::Workdir => "enter the working directory",
            Self::Seal => "keep the command to what it may do",
            Self::Exec => "execute the command",
        }
    }
}

/// A child that runs the command, or keeps the process that does.
#[derive(Debug)]
pub(crate) struct Running {
    /// Our own child.
    pub(crate) pid: libc::pid_t,
    /// Of a keeper: closing the first tells it to kill everything; the second brings the command's status.
    pub(crate) keeper: Option<(OwnedFd, OwnedFd)>,
}

impl Launch {
    /// Starts the command with these standard streams, in these bounds. Returns once it runs.
    ///
    /// As nobody else than the caller, a *keeper* process stands in between (see the platform's `keeper`).
    pub(crate) fn start(
        &self,
        stdio: [BorrowedFd<'_>; 3],
        bounds: &Bounds,
    ) -> io::Result<Result<Running, (Stage, io::Error)>> {
        let stdio = stdio.map(|fd| fd.as_raw_fd());
        let argv = pointers(&self.argv);
        let envp = pointers(&self.envp);
        let (failure, report) = pipe()?;
        let parent = Report(report.as_raw_fd());
        let keeper = if self.owner.is_none() { Some((pipe()?, pipe()?)) } else { None };
        // SAFETY: the child only makes system calls, on memory that was made ready before, and never returns.
        let pid = unsafe {
            fork(|| {
                let command = || self.become_command(stdio, &argv, &envp, (bounds, parent));
                match &keeper {
                    None => command(),
                    Some(((told, _), (_, status))) => {
                        platform::keeper::keep(told.as_raw_fd(), status.as_raw_fd(), command)
                    }
                }
            })
        }?;
        drop(report);
        let keeper = keeper.map(|((_, tell), (status, _))| (tell, status));
        let mut running = Running { pid, keeper };
        match read_failure(failure) {
            None => Ok(Ok(running)),
            Some(failure) => running.reap().map(|_| Err(failure)),
        }
    }

    /// Becomes the command, or tells the parent why it cannot.
    fn become_command(
        &self,
        stdio: [RawFd; 3],
        argv: &[*const c_char],
        envp: &[*const c_char],
        (bounds, parent): (&Bounds, Report),
    ) -> ! {
        // SAFETY: plain system calls; the arrays end with a null pointer and outlive the call.
        unsafe {
            // Also for what is made for the command's view of the filesystem.
            libc::umask(0o022);
            parent.check(self.leave_group(), Stage::Session);
            for (number, fd) in (0..).zip(stdio) {
                parent.check(libc::dup2(fd, number), Stage::Descriptors);
            }
            if self.session == Session::OwnTerminal {
                parent.check(libc::ioctl(0, libc::TIOCSCTTY as libc::c_ulong, 0), Stage::Session);
            }
            parent.check(platform::child::close_others_on_exec(), Stage::Descriptors);
            if self.isolate_network {
                parent.check(platform::child::isolate_network(), Stage::Network);
            }
            parent.check(self.confinement.enter(), Stage::World);
            parent.check(bounds.enter(), Stage::Limits);
            parent.check(self.become_owner(), Stage::Identity);
            self.enter_workdir(parent);
            default_signals();
            parent.check(self.confinement.seal(), Stage::Seal);
            for program in &self.programs {
                libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
                if !matches!(errno(), libc::ENOENT | libc::ENOTDIR | libc::EACCES) {
                    break;
                }
            }
        }
        parent.fail(Stage::Exec)
    }

    /// Starts a session, or takes the terminal. -1 and errno on failure, as the calls that follow.
    unsafe fn leave_group(&self) -> c_int {
        // SAFETY: plain system calls. All signals are blocked, so SIGTTOU does not stop us.
        unsafe {
            if self.session != Session::Callers {
                return libc::setsid();
            }
            if libc::isatty(0) == 0 {
                return 0;
            }
            libc::setpgid(0, 0).min(libc::tcsetpgrp(0, libc::getpid()))
        }
    }

    unsafe fn become_owner(&self) -> c_int {
        let Some(owner) = self.owner else { return 0 };
        // SAFETY: plain system calls; the list has one group.
        unsafe {
            platform::child::before_giving_up_root();
            if libc::setgroups(1, &owner.gid).min(libc::setgid(owner.gid)) == -1 {
                return -1;
            }
            // Nothing is left of root when this has succeeded; nor of what cron or the like has started as the user
            // since the last step.
            become_and_kill_others(owner.uid).min(platform::child::after_giving_up_root())
        }
    }

    /// Enters the working directory as the user, so that the user's own symlinks lead only where the user may go;
    /// makes it if it is missing.
    unsafe fn enter_workdir(&self, parent: Report) {
        let Some(workdir) = self.workdirs.last() else { return };
        // SAFETY: plain system calls on strings that end with a null byte.
        unsafe {
            if libc::chdir(workdir.as_ptr()) == 0 {
                return;
            }
            for dir in &self.workdirs {
                libc::mkdir(dir.as_ptr(), 0o755);
            }
            parent.check(libc::chdir(workdir.as_ptr()), Stage::Workdir);
        }
    }
}

impl Running {
    /// Waits for our own child, which must have ended or be about to.
    pub(crate) fn reap(&mut self) -> io::Result<c_int> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is a place for one status; the child is ours and has not been waited for.
            match unsafe { libc::waitpid(self.pid, &mut status, 0) } {
                -1 if errno() == libc::EINTR => {}
                -1 => return Err(io::Error::last_os_error()),
                _ => return Ok(status),
            }
        }
    }

    /// Waits for our own child for as long as `limit`; `None` if it has not ended by then.
    pub(crate) fn reap_within(&mut self, limit: Duration) -> io::Result<Option<c_int>> {
        let started = Instant::now();
        let exit = platform::exit::watch(self.pid);
        loop {
            let mut status = 0;
            let left = limit.saturating_sub(started.elapsed());
            let told = exit.as_ref().is_ok_and(|exit| readable(exit.as_fd(), left).is_ok());
            // SAFETY: `status` is a place for one status; the child is ours and has not been waited for.
            match unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) } {
                -1 if errno() == libc::EINTR => {}
                -1 => return Err(io::Error::last_os_error()),
                0 if left.is_zero() => return Ok(None),
                0 if told => {}
                0 => std::thread::sleep(Duration::from_millis(1)),
                _ => return Ok(Some(status)),
            }
        }
    }
}

/// Forks with all signals blocked, so that no handler of ours runs in the child; returns the child's pid.
///
/// # Safety
/// `child` may only make system calls that are safe between fork and exec, and must not unwind.
pub(crate) unsafe fn fork(child: impl FnOnce()) -> io::Result<libc::pid_t> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: the caller keeps the child to what is safe.
    let pid = unsafe { libc::fork() };
    let error = io::Error::last_os_error();
    if pid == 0 {
        child();
        // SAFETY: ends this process.
        unsafe { libc::_exit(127) }
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if pid < 0 { Err(error) } else { Ok(pid) }
}

/// All signals as a fresh process has them, none blocked.
fn default_signals() {
    platform::child::default_actions();
    // Cannot fail with these arguments.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// A pipe of (read end, write end), both closed on exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| CStr::as_ptr(s)).chain([ptr::null()]).collect()
}

/// What the child reports; nothing once it has closed the pipe by exec.
fn read_failure(report: OwnedFd) -> Option<(Stage, io::Error)> {
    let mut told = [0; 5];
    File::from(report).read_exact(&mut told).ok()?;
    let [stage, errno @ ..] = told;
    let stage = Stage::ALL.get(usize::from(stage)).copied().unwrap_or(Stage::Exec);
    Some((stage, io::Error::from_raw_os_error(i32::from_ne_bytes(errno))))
}

/// The child's way to tell its parent why the command does not run; closed on exec.
#[derive(Debug, Clone, Copy)]
struct Report(RawFd);

impl Report {
    fn check(self, result: c_int, stage: Stage) {
        if result == -1 {
            self.fail(stage);
        }
    }

    /// Tells the stage and errno, and ends the child.
    fn fail(self, stage: Stage) -> ! {
        let mut message = [stage as u8; 5];
        message[1..].copy_from_slice(&errno().to_ne_bytes());
        // SAFETY: writes five bytes that are there, and ends this process.
        unsafe {
            libc::write(self.0, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }
}

pub(crate) fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}
