//! Keeps the terminal from writing `^C` into a live view.

use std::io;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

/// While it lives, an interrupt from the keyboard does not move the cursor of the terminal on standard error.
///
/// The live view is drawn over by counting the lines it took. A `^C` behind the last line, which is always full,
/// takes one more, and a line of the old view would stay.
pub(crate) struct QuietInterrupt(());

impl QuietInterrupt {
    /// Nothing, when standard error is no terminal, or one that others use now.
    pub(crate) fn on_stderr() -> Option<Self> {
        let mine = tcgetpgrp(io::stderr()).is_ok_and(|group| group == getpgrp());
        let echoes = tcgetattr(io::stderr())
            .is_ok_and(|now| now.local_flags.contains(LocalFlags::ECHO | LocalFlags::ECHOCTL));
        (mine && echoes && set_echo(false)).then_some(Self(()))
    }
}

impl Drop for QuietInterrupt {
    fn drop(&mut self) {
        // In the background the terminal is another's, and to change it would stop this process.
        if tcgetpgrp(io::stderr()).is_ok_and(|group| group == getpgrp()) && !set_echo(true) {
            tracing::debug!("failed to restore the terminal");
        }
    }
}

/// Lets control characters be echoed visibly, or not; says whether that went well.
fn set_echo(on: bool) -> bool {
    let Ok(mut terminal) = tcgetattr(io::stderr()) else { return false };
    terminal.local_flags.set(LocalFlags::ECHOCTL, on);
    tcsetattr(io::stderr(), SetArg::TCSADRAIN, &terminal).is_ok()
}
