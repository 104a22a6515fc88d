//! Runs one program in bounds, and ends it with everything it has started.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use obuilder_core::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, setrlimit,
    umask, waitid,
};

use crate::error::{Error, Result};

/// How long to sleep at most before looking whether the program has ended: what it started may keep the pipes open.
const TICK: Duration = Duration::from_millis(50);

/// How often that is looked at when nothing is left to be read.
const SHORT_TICK: Duration = Duration::from_millis(1);

/// A program to run.
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    pub(crate) args: &'a [OsString],
    /// Its whole environment.
    pub(crate) env: &'a [(OsString, OsString)],
    pub(crate) dir: &'a Path,
    /// At most what a pipe takes at once, 16 KiB.
    pub(crate) input: &'a [u8],
    /// A lock that it inherits.
    pub(crate) held: Option<BorrowedFd<'a>>,
    pub(crate) bounds: Bounds,
}

/// What the kernel holds a program to, whatever becomes of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of each file that it writes.
    pub(crate) file: u64,
    /// Bytes that it maps.
    pub(crate) memory: u64,
    /// The program, not what it has started, is ended after this.
    pub(crate) time: Duration,
}

/// Takes what a program prints.
pub(crate) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// Where the two streams of a program go.
pub(crate) enum Output<'a> {
    /// Both to one place, in order.
    Together(Take<'a>),
    /// Standard output and standard error.
    Apart(Take<'a>, Take<'a>),
}

/// Looks after a running program now and then; says when to look again.
pub(crate) type Watch<'a> = &'a mut dyn FnMut() -> Result<Duration>;

/// Runs `program` to its end.
///
/// When `cancel` is cancelled, or `output` or `watch` fails, its process group is killed at once. Nothing of the group is left
/// when this returns.
pub(crate) fn run(
    program: &Program<'_>,
    output: Output<'_>,
    watch: Watch<'_>,
    cancel: &Cancel,
) -> Result<ExitStatus> {
    let (mut streams, writers) = Stream::all(output).map_err(Error::io("make a pipe"))?;
    let mut group = Group::start(program, writers)?;
    let cancelled = cancel.readable().map_err(Error::io("make a pipe"))?;
    let mut next = Instant::now() + watch()?;
    while !group.has_ended()? {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if Instant::now() >= next {
            next = Instant::now() + watch()?;
        }
        if streams.is_empty() {
            cancel.wait_timeout(SHORT_TICK);
            continue;
        }
        let patience = next.saturating_duration_since(Instant::now()).min(TICK);
        read_ready(&mut streams, Some(cancelled.as_fd()), patience)?;
    }
    // Whoever it has left behind would keep the pipes open, and write where the next one works.
    group.kill();
    while !streams.is_empty() && read_ready(&mut streams, None, Duration::ZERO)? {}
    group.reap().map_err(Error::io("wait for a program"))
}

/// One pipe, and who takes what comes through it.
struct Stream<'a> {
    pipe: PipeReader,
    take: Take<'a>,
}

impl<'a> Stream<'a> {
    fn all(output: Output<'a>) -> io::Result<(Vec<Self>, [PipeWriter; 2])> {
        let (pipe, writer) = io::pipe()?;
        match output {
            Output::Together(take) => {
                let both = [writer.try_clone()?, writer];
                Ok((vec![Self { pipe, take }], both))
            }
            Output::Apart(take, take_errors) => {
                let (errors, errors_writer) = io::pipe()?;
                let all = vec![Self { pipe, take }, Self { pipe: errors, take: take_errors }];
                Ok((all, [writer, errors_writer]))
            }
        }
    }
}

/// Waits up to `patience` for something to read and reads it; says whether anything happened. Streams at their end are dropped.
fn read_ready(
    streams: &mut Vec<Stream<'_>>,
    cancelled: Option<BorrowedFd<'_>>,
    patience: Duration,
) -> Result<bool> {
    let fds = streams.iter().map(|stream| stream.pipe.as_fd()).chain(cancelled);
    let mut polled: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(patience).unwrap_or_default();
    match poll(&mut polled, Some(&timeout)) {
        Ok(0) | Err(Errno::INTR) => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(Error::io("wait for a program's output")(error)),
    }
    let mut ready =
        polled.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
    let mut failed = Ok(());
    streams.retain_mut(|stream| {
        if failed.is_err() || !ready.next().unwrap_or_default() {
            return true;
        }
        let read = read_some(stream);
        let open = !matches!(read, Ok(0));
        failed = read.map(drop);
        open
    });
    failed.map(|()| true)
}

fn read_some(stream: &mut Stream<'_>) -> Result<usize> {
    let mut buffer = [0; 32 * 1024];
    match stream.pipe.read(&mut buffer) {
        Ok(read) => (stream.take)(&buffer[..read]).map(|()| read),
        Err(error) => Err(Error::io("read a program's output")(error)),
    }
}

/// A program and everything that it has started and that has not left its group.
struct Group {
    child: Child,
    reaped: bool,
}

impl Group {
    fn start(program: &Program<'_>, [output, errors]: [PipeWriter; 2]) -> Result<Self> {
        let mut command = Command::new(program.path);
        command.args(program.args).current_dir(program.dir).process_group(0);
        command.env_clear().envs(program.env.iter().map(|(name, value)| (name, value)));
        command.stdin(input(program.input).map_err(Error::io("make a pipe"))?);
        command.stdout(output).stderr(errors);
        let bounds = Lowered::of(program.bounds);
        let held = program.held.map(|fd| fd.as_raw_fd());
        // SAFETY: between fork and exec this only makes system calls on values that were made before.
        unsafe { command.pre_exec(move || bounds.apply(held)) };
        let spawned = command.spawn();
        let child =
            spawned.map_err(|source| Error::NoGit { program: program.path.to_owned(), source })?;
        Ok(Self { child, reaped: false })
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Whether the program has ended. It is not reaped yet, so that its number stands for nobody else.
    fn has_ended(&self) -> Result<bool> {
        let Some(pid) = self.pid() else { return Ok(true) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), options) {
            Ok(status) => Ok(status.is_some()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(Error::io("wait for a program")(error)),
        }
    }

    fn kill(&self) {
        if let (false, Some(pid)) = (self.reaped, self.pid()) {
            // That nobody is left is no failure.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            if let Err(error) = self.child.wait() {
                tracing::warn!("failed to wait for process {}: {error}", self.child.id());
            }
        }
    }
}

fn input(bytes: &[u8]) -> io::Result<Stdio> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(bytes)?;
    Ok(reader.into())
}

/// Bounds, none above what this process has itself.
struct Lowered {
    limits: [(Resource, Rlimit); 3],
    seconds: u32,
}

impl Lowered {
    fn of(bounds: Bounds) -> Self {
        let wanted =
            [(Resource::Fsize, bounds.file), (Resource::As, bounds.memory), (Resource::Core, 0)];
        let limits = wanted.map(|(resource, wanted)| {
            let limit = Some(getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted)));
            (resource, Rlimit { current: limit, maximum: limit })
        });
        // Later than this process would end it.
        let seconds = u32::try_from(bounds.time.as_secs()).unwrap_or(u32::MAX).saturating_add(5);
        Self { limits, seconds }
    }

    fn apply(&self, held: Option<RawFd>) -> io::Result<()> {
        // A build user is to read what is written.
        umask(Mode::WGRP | Mode::WOTH);
        for (resource, limit) in &self.limits {
            // macOS does not take all of them.
            let _ = setrlimit(*resource, *limit);
        }
        nix::unistd::alarm::set(self.seconds.max(1));
        if let Some(fd) = held {
            // SAFETY: the caller of `run` keeps it open.
            fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::empty())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
