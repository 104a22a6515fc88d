//! Standard output is data, standard error the rest.

use std::fmt;
use std::io::{self, Write};

use crate::error::CommandError;

/// Writes `text` to standard output. A reader that has gone away (`obuild ls | head`) is no error.
pub(crate) fn print(text: impl fmt::Display) -> Result<(), CommandError> {
    write(text.to_string().as_bytes()).map(drop)
}

/// Writes `bytes` to standard output; says whether anyone is still reading.
pub(crate) fn write(bytes: &[u8]) -> Result<bool, CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(CommandError::system("failed to write to standard output").caused_by(&error))
        }
    }
}

/// Writes one JSON value and a newline to standard output.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::system("failed to write JSON").caused_by(&error))?;
    print(format!("{text}\n"))
}

/// Tells the user something that does not stop the command.
pub(crate) fn warn(text: impl fmt::Display) {
    note("warning", text);
}

/// Tells the user something on standard error, after `label`.
pub(crate) fn note(label: &str, text: impl fmt::Display) {
    // Nothing sensible can be done when standard error is closed.
    let _ = writeln!(io::stderr(), "{label}: {text}");
}
