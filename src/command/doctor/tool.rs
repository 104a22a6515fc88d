//! Asking a program of the system.

use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Nothing we ask takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a program said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) success: bool,
    /// Standard output, then standard error.
    pub(super) text: String,
}

/// Runs `program` to its end, and ends it when that takes too long.
pub(super) fn ask(program: &str, arguments: &[&str]) -> io::Result<Said> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || tell.send(child.wait_with_output()));
    let output = match told.recv_timeout(PATIENCE) {
        Ok(output) => output?,
        Err(_) => {
            // Not buried before the thread has waited for it, so the number is its own.
            if !waiter.is_finished() {
                kill_process(pid, Signal::KILL)?;
            }
            let text = format!("`{program}` gives no answer");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    };
    let text = [output.stdout, output.stderr].concat();
    Ok(Said { success: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_heard() {
        let said = ask("/bin/sh", &["-c", "echo a; echo b >&2; exit 3"]).unwrap();
        assert_eq!(said, Said { success: false, text: "a\nb\n".to_owned() });
        assert_eq!(ask("/nowhere/tool", &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
