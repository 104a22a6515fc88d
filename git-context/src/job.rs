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

/// How much of a command's standard output is kept, where all of it is wanted: a line for each of a million references.
const MOST_PRINTED: usize = 128 << 20;

/// Where a job's log goes.
pub(crate) type Log<'a> = &'a dyn Fn(&[u8]) -> io::Result<()>;

/// One job's sources being got.
pub(crate) struct Job<'a> {
    pub(crate) git: &'a Git,
    pub(crate) log: Log<'a>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) clock: Clock,
    /// Bytes that all fetches have brought, if there was any.
    pub(crate) fetched: Cell<Option<u64>>,
    /// The lock on the job's directory, which every command inherits.
    pub(crate) directory: BorrowedFd<'a>,
}

/// How a command whose output was taken ended.
pub(crate) struct Finished {
    label: &'static str,
    status: ExitStatus,
    errors: Vec<u8>,
}

/// Looks after a command; says when to look again.
pub(crate) type Look<'a> = &'a mut dyn FnMut() -> Result<Duration>;

impl Job<'_> {
    /// Writes `text` to the log.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        self.write(text.as_bytes())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        (self.log)(bytes).map_err(Error::Log)
    }

    /// Runs a command whose words go to the log.
    pub(crate) fn logged(&self, command: &Command) -> Result<()> {
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
        let status = self.run(command, Output::Together(&mut take), None)?;
        Finished { label: command.label, status, errors: Vec::new() }.into_result()
    }

    /// Runs a command whose standard output is taken; its standard error is kept.
    pub(crate) fn taken(&self, command: &Command, take: Take<'_>) -> Result<Finished> {
        self.apart(command, take, None)
    }

    /// Runs a command whose standard output is kept.
    pub(crate) fn printed(&self, command: &Command) -> Result<(Finished, Vec<u8>)> {
        let mut printed = Vec::new();
        let what = || format!("what {} prints", command.label);
        let mut take = |bytes: &[u8]| {
            if printed.len() + bytes.len() > MOST_PRINTED {
                let limit = MOST_PRINTED as u64;
                return Err(Error::TooLarge { what: what(), limit, unit: "bytes" });
            }
            printed.extend_from_slice(bytes);
            Ok(())
        };
        let finished = self.apart(command, &mut take, None)?;
        Ok((finished, printed))
    }

    /// Runs a command whose output is of no interest.
    pub(crate) fn quiet(&self, command: &Command) -> Result<Finished> {
        self.apart(command, &mut |_| Ok(()), None)
    }

    /// The same, with somebody to look after it.
    pub(crate) fn watched(&self, command: &Command, look: Look<'_>) -> Result<Finished> {
        self.apart(command, &mut |_| Ok(()), Some(look))
    }

    fn apart(&self, command: &Command, take: Take<'_>, look: Option<Look<'_>>) -> Result<Finished> {
        let mut errors = Vec::new();
        let mut keep = |bytes: &[u8]| {
            let room = ERRORS.saturating_sub(errors.len());
            errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(())
        };
        let status = self.run(command, Output::Apart(take, &mut keep), look)?;
        Ok(Finished { label: command.label, status, errors })
    }

    fn run(
        &self,
        command: &Command,
        output: Output<'_>,
        mut look: Option<Look<'_>>,
    ) -> Result<ExitStatus> {
        let limits = &self.git.limits;
        let env: Vec<(OsString, OsString)> =
            self.git.environment.iter().chain(&command.env).cloned().collect();
        let time = self.clock.left();
        let bounds = Bounds { file: limits.fetch.max(limits.files), memory: limits.memory, time };
        let program = Program {
            path: &self.git.program,
            args: &command.args,
            env: &env,
            dir: &command.dir,
            input: &command.input,
            held: Some(self.directory),
            bounds,
        };
        let watch: Watch<'_> = &mut || self.watch(command.label, &mut look);
        tracing::debug!("running git {:?}", command.args);
        process::run(&program, output, watch, self.cancel)
    }

    /// Stops a command when the job's time is up.
    fn watch(&self, label: &'static str, look: &mut Option<Look<'_>>) -> Result<Duration> {
        let left = self.clock.left();
        if left.is_zero() {
            return Err(Error::TooSlow { doing: label.into(), limit: self.git.limits.time });
        }
        let next = look.as_mut().map_or(Ok(left), |look| look())?;
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
