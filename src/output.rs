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
    heard(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Judges an attempt to write to standard output: whether anyone is still reading.
pub(crate) fn heard(written: io::Result<()>) -> Result<bool, CommandError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(CommandError::system("failed to write to standard output").caused_by(&error))
        }
    }
}

/// Standard output of a build: what cannot be written does not stop a build that others may share, and is told at its end.
pub(crate) struct Sink<W> {
    out: W,
    failed: io::Result<()>,
}

impl<W: Write> Sink<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out, failed: Ok(()) }
    }

    /// Writes `bytes`, unless that has failed before.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if self.failed.is_ok() {
            self.failed = self.out.write_all(bytes).and_then(|()| self.out.flush());
        }
    }

    /// The first failure, once; a reader that has gone away is none.
    pub(crate) fn finish(&mut self) -> Result<(), CommandError> {
        heard(std::mem::replace(&mut self.failed, Ok(()))).map(drop)
    }

    /// What was written to, while it is written.
    #[cfg(test)]
    pub(crate) fn written(&self) -> &W {
        &self.out
    }

    /// What was written to.
    #[cfg(test)]
    pub(crate) fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
