//! Following a command: its output goes to the log until it ends, or must end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use obuilder_core::{BuildLog, Cancel};

use crate::limits::CpuClock;
use crate::nesting::{self, Nesting};

/// Most that is read from the pipe after everything has been killed: more than any pipe holds.
const REST: usize = 1 << 22;

/// Why following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The command has ended by itself.
    Ended,
    /// The token was cancelled.
    Cancelled,
    /// The time limit has passed.
    TimedOut(Duration),
    /// The step has used up its CPU time.
    Spent,
}

/// The build log, with lines of our own between those of a command.
pub(crate) struct Lines<'a> {
    log: &'a BuildLog,
    /// Whether the last line has no end yet.
    open: bool,
    /// Looks for what the command must be told at its end; `None` where nothing is.
    nesting: Option<Nesting>,
    advised: bool,
}

impl<'a> Lines<'a> {
    /// Lines of `log`; a command that is `confined` may not start a sandbox of its own.
    pub(crate) fn new(log: &'a BuildLog, confined: bool) -> Self {
        Self { log, open: false, nesting: confined.then(Nesting::default), advised: false }
    }

    fn copy(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open = !bytes.ends_with(b"\n");
        self.advised |= self.nesting.as_mut().is_some_and(|nesting| nesting.begins_in(bytes));
        self.log.write(bytes)
    }

    /// Writes whole lines.
    pub(crate) fn tell(&mut self, lines: &str) -> io::Result<()> {
        if self.open && !lines.is_empty() {
            self.copy(b"\n")?;
        }
        self.log.write(lines.as_bytes())
    }

    /// Says, after a command, what is to be done about what it has met.
    pub(crate) fn advise(&mut self) -> io::Result<()> {
        if self.advised { self.tell(nesting::ADVICE) } else { Ok(()) }
    }
}

/// Copies `output` to `log` until `exit` is readable, `cancel` is cancelled or one of the times is over.
pub(crate) fn follow(
    output: &mut File,
    exit: BorrowedFd<'_>,
    log: &mut Lines<'_>,
    cancel: &Cancel,
    (limit, mut cpu): (Option<Duration>, CpuClock<'_>),
) -> io::Result<Stop> {
    let deadline = limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
    let cancelled = cancel.readable()?;
    let mut buffer = vec![0; 1 << 16];
    let mut open = true;
    loop {
        let left = deadline.map(|(_, deadline)| deadline.saturating_duration_since(Instant::now()));
        if let (Some((limit, _)), Some(Duration::ZERO)) = (deadline, left) {
            return Ok(Stop::TimedOut(limit));
        }
        let cpu_left = cpu.left();
        if cpu_left == Some(Duration::ZERO) {
            return Ok(Stop::Spent);
        }
        let left = left.into_iter().chain(cpu_left).min();
        // Once its end has been met, the output is always readable.
        let watched = open.then_some(output.as_fd());
        match wait([Some(cancelled.as_fd()), Some(exit), watched], left)? {
            [true, ..] => return Ok(Stop::Cancelled),
            [_, true, _] => return Ok(Stop::Ended),
            [_, _, true] => match output.read(&mut buffer)? {
                0 => open = false,
                n => log.copy(&buffer[..n])?,
            },
            _ => {}
        }
    }
}

/// Waits until one of `fds` is readable or the time is over; says which are.
fn wait<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    left: Option<Duration>,
) -> io::Result<[bool; N]> {
    let timeout = left.map_or(PollTimeout::NONE, |left| {
        // Rounded up, or the last millisecond is spent turning round.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    let mut polled: Vec<_> =
        fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, timeout) {
        Err(nix::Error::EINTR) => return Ok([false; N]),
        ready => ready?,
    };
    let mut polled = polled.into_iter();
    Ok(fds.map(|fd| fd.and_then(|_| polled.next()?.any()).unwrap_or(false)))
}

/// Copies what is still in the pipe, without waiting for more: nobody is left to write it.
pub(crate) fn drain(output: &mut File, log: &mut Lines<'_>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&output, true)?;
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
    while total < REST {
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                log.copy(&buffer[..n])?;
                total += n;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_on_a_line_of_its_own() {
        let refusal = "sandbox_apply: Operation not permitted";
        let whole = format!("{refusal}\n{}", nesting::ADVICE);
        for (confined, output, expected) in
            [(true, refusal, whole.as_str()), (false, refusal, refusal), (true, "fine\n", "fine\n")]
        {
            let dir = tempfile::tempdir().unwrap();
            let log = BuildLog::create(&dir.path().join("log")).unwrap();
            let mut lines = Lines::new(&log, confined);
            output.as_bytes().chunks(7).for_each(|piece| lines.copy(piece).unwrap());
            lines.advise().unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), expected);
        }
    }
}
