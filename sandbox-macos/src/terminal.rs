//! The caller's terminal, lent to a command.

use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, tcsetpgrp};

/// Brings the terminal back to what it was when this is dropped.
///
/// The command becomes the foreground process group, so Ctrl-C reaches it alone.
pub(crate) struct Lent(Option<(Termios, Pid)>);

impl Lent {
    /// Remembers the terminal on standard input, if there is one.
    pub(crate) fn new() -> Self {
        let stdin = io::stdin();
        let modes = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        Self(modes.map(|modes| (modes, getpgrp())))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some((modes, group)) = &self.0 else { return };
        // We are in the background now, where taking the terminal back stops a process that does not block this.
        let mut ttou = SigSet::empty();
        ttou.add(Signal::SIGTTOU);
        let mut before = SigSet::empty();
        let taken = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ttou), Some(&mut before))
            .and_then(|()| tcsetpgrp(io::stdin(), *group))
            .and_then(|()| tcsetattr(io::stdin(), SetArg::TCSADRAIN, modes))
            .and_then(|()| pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None));
        if let Err(error) = taken {
            tracing::warn!(%error, "failed to take the terminal back");
        }
    }
}
