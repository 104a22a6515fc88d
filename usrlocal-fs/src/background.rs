//! Serving in the background, once it is known to work.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid};

/// Runs `serve` in a process of its own and returns when that says that it is ready; an error of it before is this
/// process's own.
pub(crate) fn run<E: std::error::Error + 'static>(
    serve: impl FnOnce(Box<dyn FnOnce()>) -> Result<(), E>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (ours, theirs) = pipe()?;
    // SAFETY: this process has one thread so far, so the child may do whatever it likes.
    match unsafe { fork()? } {
        ForkResult::Parent { .. } => {
            drop(theirs);
            let mut word = String::new();
            File::from(ours).read_to_string(&mut word)?;
            if word == "ready" {
                Ok(())
            } else {
                Err(io::Error::other("could not be mounted; see above").into())
            }
        }
        ForkResult::Child => {
            drop(ours);
            setsid()?;
            let ready = move || {
                let quiet = OpenOptions::new().read(true).write(true).open("/dev/null");
                if let Ok(null) = quiet {
                    let _ = dup2_stdin(&null).and(dup2_stdout(&null)).and(dup2_stderr(&null));
                }
                let _ = File::from(theirs).write_all(b"ready");
            };
            Ok(serve(Box::new(ready))?)
        }
    }
}
