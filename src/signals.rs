//! Interrupts: the first asks the build to stop, the second stops at once.

use std::sync::Arc;
use std::thread;

use obuilder_core::Cancel;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{CommandError, Kind};

/// Makes sure that the ends of children are told. Who has started us may ignore them, and that is passed on.
pub(crate) fn wait_for_children() {
    // A signal with a handler is not ignored.
    let told = signal_hook::flag::register(SIGCHLD, Arc::default());
    told.expect("every system has this signal");
}

/// A token that SIGINT, SIGTERM and SIGHUP cancel; `tell` is told what happens.
///
/// A second signal ends the process at once. What it then leaves behind is what a kill would leave,
/// and the next start sweeps it away.
pub(crate) fn cancel_on_signals(
    tell: impl Fn(&str) + Send + 'static,
) -> Result<Cancel, CommandError> {
    let cancel = Cancel::new();
    let failed = |error| CommandError::system("failed to catch signals").caused_by(&error);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let token = cancel.clone();
    let wait = move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                signal_hook::low_level::exit(i32::from(Kind::Interrupted.code()));
            }
            tell("interrupted: the build is being stopped; once more stops it at once");
            token.cancel();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(cancel)
}
