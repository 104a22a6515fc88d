//! Getting the sources of one job: what every command of it has in common.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use obuilder_core::Cancel;

use crate::error::{Ending, Error, Result};
use crate::git::{Command, Git};
use crate::limits::Clock;
use crate::process::{self, Bounds, Output, Program, Take, Watch};

/// How much of a command's standard error is kept for the log.
const ERRORS: usize = 32 * 1024;

/// Where a job's log goes.
pub(crate) type Log<'a> = &'a dyn Fn(&[u8]) -> io::Result<()>;

/// One job's sources being got.
pub(crate) struct Job<'a> {
    pub(crate) git: &'a Git,
    pub(crate) log: Log<'a>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) clock: Clock,
    /// Whether anything was fetched.
    pub(crate) fetched: Cell<bool>,
    /// The lock on the job's directory, which every command inherits.
    pub(crate) directory: BorrowedFd<'a>,
}

/// How a command whose output was taken ended.
pub(crate) struct Finished {
    label: &'static str,
    status: ExitStatus,
    errors: Vec<u8>,
}

/// What a command runs with besides the job's own.
#[derive(Default)]
pub(crate) struct Along<'a, 'b> {
    /// Locks that it inherits.
    pub(crate) held: Vec<BorrowedFd<'a>>,
    /// Looks after it.
    pub(crate) watch: Option<&'b mut dyn FnMut() -> Result<Duration>>,
}

impl Job<'_> {
    /// Writes `text` to the log.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        self.write(text.as_bytes())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        (self.log)(bytes).map_err(Error::Log)
    }

    /// Runs a command whose words go to the log.
    pub(crate) fn logged(&self, command: &Command, held: &[BorrowedFd<'_>]) -> Result<()> {
        let mut left = self.git.limits.output;
        let mut take = |bytes: &[u8]| {
            let fits = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.write(&bytes[..fits])?;
            left -= fits as u64;
            if fits < bytes.len() && fits > 0 {
                self.say(&format!("\n({} says more than is shown here)\n", command.label))?;
            }
            Ok(())
        };
        let along = Along { held: held.to_vec(), watch: None };
        let status = self.run(command, Output::Together(&mut take), along)?;
        Finished { label: command.label, status, errors: Vec::new() }.into_result()
    }

    /// Runs a command whose standard output is taken; its standard error is kept.
    pub(crate) fn taken(
        &self,
        command: &Command,
        take: Take<'_>,
        along: Along<'_, '_>,
    ) -> Result<Finished> {
        let mut errors = Vec::new();
        let mut keep = |bytes: &[u8]| {
            let room = ERRORS.saturating_sub(errors.len());
            errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(())
        };
        let status = self.run(command, Output::Apart(take, &mut keep), along)?;
        Ok(Finished { label: command.label, status, errors })
    }

    /// Runs a command whose output is of no interest.
    pub(crate) fn quiet(&self, command: &Command) -> Result<Finished> {
        self.taken(command, &mut |_| Ok(()), Along::default())
    }

    fn run(
        &self,
        command: &Command,
        output: Output<'_>,
        mut along: Along<'_, '_>,
    ) -> Result<ExitStatus> {
        let limits = &self.git.limits;
        let env: Vec<(OsString, OsString)> =
            self.git.environment.iter().chain(&command.env).cloned().collect();
        let held: Vec<_> = along.held.iter().copied().chain([self.directory]).collect();
        let time = self.clock.left();
        let bounds = Bounds { file: limits.fetch.max(limits.files), memory: limits.memory, time };
        let program = Program {
            path: &self.git.program,
            args: &command.args,
            env: &env,
            dir: &command.dir,
            input: &command.input,
            held: &held,
            bounds,
        };
        let watch: Watch<'_> = &mut || self.watch(command.label, &mut along.watch);
        tracing::debug!("running git {:?}", command.args);
        process::run(&program, output, watch, self.cancel)
    }

    /// Stops a command when the job's time is up.
    fn watch(
        &self,
        label: &'static str,
        other: &mut Option<&mut dyn FnMut() -> Result<Duration>>,
    ) -> Result<Duration> {
        let left = self.clock.left();
        if left.is_zero() {
            return Err(Error::TooSlow { doing: label.into(), limit: self.git.limits.time });
        }
        let next = other.as_mut().map_or(Ok(left), |watch| watch())?;
        Ok(next.min(left))
    }
}

impl Finished {
    /// The code it exited with; `None` when a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it exited with 0.
    pub(crate) fn success(&self) -> bool {
        self.status.success()
    }

    /// What it wrote to its standard error, or the beginning of it.
    pub(crate) fn errors(&self) -> &[u8] {
        &self.errors
    }

    /// An error unless it exited with 0.
    pub(crate) fn into_result(self) -> Result<()> {
        let ending = match (self.status.code(), self.status.signal()) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => Ending::Exit(code),
            (None, signal) => Ending::Signal(signal.unwrap_or_default()),
        };
        Err(Error::Command { label: self.label, ending, hint: None })
    }

    /// The same; what it said goes to the job's log first.
    pub(crate) fn told(self, job: &Job<'_>) -> Result<()> {
        if !self.success() {
            job.write(&self.errors)?;
        }
        self.into_result()
    }
}
