//! Runs a program with all that it says in a job's log.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use obuilder_core::Cancel;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::job_log::JobLog;

/// Why a program did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was stopped because the job was to stop.
    #[error("cancelled")]
    Cancelled,
    /// It is not there.
    #[error("there is no `{0}` on this worker")]
    Missing(String),
    /// It ended with a code.
    #[error("{label} failed with exit-code {code}")]
    Exited {
        /// What it was run for.
        label: &'static str,
        /// The code.
        code: i32,
    },
    /// A signal ended it.
    #[error("{label} failed with signal {signal}")]
    Signalled {
        /// What it was run for.
        label: &'static str,
        /// The signal.
        signal: i32,
    },
    /// The system failed.
    #[error("failed to run {label}: {source}")]
    Io {
        /// What it was run for.
        label: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
}

/// A program to run.
pub struct Program<'a> {
    /// What it is run for, in messages.
    pub label: &'static str,
    /// The command; its output and input are set when it is run.
    pub command: Command,
    /// What it reads.
    pub stdin: &'a [u8],
}

impl Program<'_> {
    /// Runs it to its end. It and all that it has started are killed when `cancel` is cancelled.
    pub fn run(self, log: &JobLog, cancel: &Cancel) -> Result<(), Failure> {
        self.follow(true, cancel, |bytes| log.write(bytes))
    }

    /// Runs it as [`run`](Self::run) does, and gives the first `most` bytes that it writes; nobody hears of its errors.
    pub fn read(self, most: usize, cancel: &Cancel) -> Result<Vec<u8>, Failure> {
        let mut read = Vec::new();
        self.follow(false, cancel, |bytes| {
            read.extend_from_slice(&bytes[..bytes.len().min(most - read.len())]);
        })?;
        Ok(read)
    }

    /// Runs it with what it writes (and its errors) given to `sink`.
    fn follow(
        mut self,
        errors: bool,
        cancel: &Cancel,
        sink: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        let label = self.label;
        let failed = |source| Failure::Io { label, source };
        let (mut output, writer) = io::pipe().map_err(failed)?;
        let other = errors.then(|| writer.try_clone()).transpose().map_err(failed)?;
        let other = other.map_or_else(Stdio::null, Stdio::from);
        self.command.stdin(Stdio::piped()).stdout(writer).stderr(other).process_group(0);
        let mut child = self.command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Failure::Missing(shown(self.command.get_program())),
            _ => failed(source),
        })?;
        // The command holds ends of the pipe, which would never close.
        drop(self.command);
        let killing = cancel.on_cancel(end_of_group(&child));
        if let Some(mut stdin) = child.stdin.take() {
            // Programs may end without having read all.
            let _ = stdin.write_all(self.stdin);
        }
        let copied = copy(&mut output, sink);
        let status = child.wait().map_err(failed)?;
        drop(killing);
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        copied.map_err(failed)?;
        judge(label, status)
    }
}

/// Kills a process group, which a child leads.
fn end_of_group(child: &Child) -> impl Fn() + Send + Sync + use<> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    move || {
        // A group that has gone needs no killing.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
}

fn copy(output: &mut impl Read, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match output.read(&mut buffer)? {
            0 => return Ok(()),
            count => sink(&buffer[..count]),
        }
    }
}

fn judge(label: &'static str, status: ExitStatus) -> Result<(), Failure> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Exited { label, code }),
        (None, signal) => Err(Failure::Signalled { label, signal: signal.unwrap_or(0) }),
    }
}

fn shown(program: &OsStr) -> String {
    program.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn sh(script: &str) -> Program<'static> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Program { label: "docker-build", command, stdin: b"input" }
    }

    fn log() -> JobLog {
        JobLog::new(&std::env::temp_dir(), 1 << 20)
    }

    #[tokio::test]
    async fn what_it_says_is_in_the_log() {
        let log = log();
        sh("echo out; echo err >&2; cat").run(&log, &Cancel::new()).unwrap();
        assert_eq!(log.read(0).await.unwrap().bytes, b"out\nerr\ninput");
        let failed = |script: &str| sh(script).run(&log, &Cancel::new()).unwrap_err().to_string();
        assert_eq!(failed("exit 3"), "docker-build failed with exit-code 3");
        assert_eq!(failed("kill -9 $$"), "docker-build failed with signal 9");
    }

    #[test]
    fn what_it_writes_is_read_within_bounds() {
        let read = |script: &str, most| sh(script).read(most, &Cancel::new());
        assert_eq!(read("echo out; echo err >&2; cat", 100).unwrap(), b"out\ninput");
        let long = read("seq 100000", 10).unwrap();
        assert_eq!(long, b"1\n2\n3\n4\n5\n");
        assert!(matches!(read("exit 3", 10), Err(Failure::Exited { code: 3, .. })));
    }

    #[test]
    fn a_missing_program_is_named() {
        let command = Command::new("/no-such-program");
        let missing = Program { label: "x", command, stdin: b"" }.run(&log(), &Cancel::new());
        assert_eq!(
            missing.unwrap_err().to_string(),
            "there is no `/no-such-program` on this worker"
        );
    }

    #[test]
    fn cancelling_ends_it_and_what_it_has_started() {
        let cancel = Cancel::new();
        let began = Instant::now();
        let token = cancel.clone();
        let thread =
            std::thread::spawn(move || sh("sleep 60 & sleep 60; wait").run(&log(), &token));
        std::thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        assert!(matches!(thread.join().unwrap(), Err(Failure::Cancelled)));
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
