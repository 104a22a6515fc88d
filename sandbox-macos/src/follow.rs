//! Following a command: its output goes to the log until it ends, or must end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use obuilder_core::{BuildLog, Cancel};

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
}

/// Copies `output` to `log` until `exit` is readable, `cancel` is cancelled or the time is over.
pub(crate) fn follow(
    output: &mut File,
    exit: BorrowedFd<'_>,
    log: &BuildLog,
    cancel: &Cancel,
    limit: Option<Duration>,
) -> io::Result<Stop> {
    let deadline = limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
    let cancelled = cancel.readable()?;
    let mut buffer = vec![0; 1 << 16];
    let mut open = true;
    loop {
        let wait = match deadline {
            None => PollTimeout::NONE,
            Some((limit, deadline)) => match deadline.checked_duration_since(Instant::now()) {
                None => return Ok(Stop::TimedOut(limit)),
                // Rounded up, or the last millisecond is spent turning round.
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX),
            },
        };
        let mut fds = [
            PollFd::new(cancelled.as_fd(), PollFlags::POLLIN),
            PollFd::new(exit, PollFlags::POLLIN),
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
        ];
        // Once its end has been met, the output is always readable.
        let watched = if open { &mut fds[..] } else { &mut fds[..2] };
        match poll(watched, wait) {
            Err(nix::Error::EINTR) => continue,
            polled => polled?,
        };
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        if ready[0] {
            return Ok(Stop::Cancelled);
        }
        if ready[1] {
            return Ok(Stop::Ended);
        }
        if open && ready[2] {
            match output.read(&mut buffer)? {
                0 => open = false,
                n => log.write(&buffer[..n])?,
            }
        }
    }
}

/// Copies what is still in the pipe, without waiting for more: nobody is left to write it.
pub(crate) fn drain(output: &mut File, log: &BuildLog) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&output, true)?;
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
    while total < REST {
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                log.write(&buffer[..n])?;
                total += n;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
