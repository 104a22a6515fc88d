//! OBuilder's lines: headings, notes and output in one stream.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use obuilder_core::ResultId;
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};

use super::View;
use crate::error::CommandError;
use crate::output::{self, Sink};

/// Writes what OBuilder would print, to the byte; warnings go to standard error.
pub(crate) struct Plain<W>(Mutex<Sink<W>>);

impl<W: Write + Send> Plain<W> {
    /// A view that writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self(Mutex::new(Sink::new(out)))
    }

    fn lock(&self) -> MutexGuard<'_, Sink<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) {
        self.lock().write(bytes);
    }
}

impl<W: Write + Send> Observer for Plain<W> {
    fn event(&self, _: &Stage, event: Event<'_>) {
        let line = match event {
            Event::BuildStarted { heading, .. } => format!("{heading}\n"),
            Event::BuildFinished { name, .. } => format!("--> finished {name:?}\n"),
            Event::Heading { text } => format!("{text}\n"),
            Event::StepFinished { id, end: StepEnd::Cached, .. } => {
                format!("---> using \"{id}\" from cache\n")
            }
            Event::StepFinished { id, end: StepEnd::Saved, .. } => {
                format!("---> saved as \"{id}\"\n")
            }
            Event::Output { bytes } => return self.write(bytes),
            Event::Warning { text } => return output::warn(text),
            Event::Waiting { reason } => return output::note("waiting", reason),
            Event::StepStarted { .. } | Event::StepFinished { .. } => return,
        };
        self.write(line.as_bytes());
    }
}

impl<W: Write + Send> View for Plain<W> {
    fn end(&self, result: Result<&ResultId, &CommandError>) -> Result<(), CommandError> {
        let mut out = self.lock();
        if let Ok(id) = result {
            out.write(format!("Got: \"{id}\"\n").as_bytes());
        }
        out.finish()
    }

    fn warn(&self, text: &str) {
        output::warn(text);
    }

    fn note(&self, text: &str) {
        output::note("note", text);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_those_of_obuilder() {
        let view = Plain::new(Vec::new());
        let id = ResultId::of(b"x");
        let stage = Stage::default();
        let finished = |end| Event::StepFinished { id: &id, end, elapsed: Duration::ZERO };
        view.event(&stage, Event::BuildStarted { name: "dev", heading: "(build \"dev\" …)" });
        view.event(&stage, Event::Heading { text: "(from busybox)" });
        view.event(&stage, Event::StepStarted { id: &id });
        view.event(&stage, finished(StepEnd::Cached));
        view.event(&stage, Event::Heading { text: "/: (run (shell \"printf x\"))" });
        view.event(&stage, Event::Output { bytes: b"x" });
        view.event(&stage, finished(StepEnd::Saved));
        view.event(&stage, Event::BuildFinished { name: "dev", id: &id });
        view.end(Ok(&id)).unwrap();
        let expected = format!(
            "(build \"dev\" …)\n(from busybox)\n---> using \"{id}\" from cache\n\
             /: (run (shell \"printf x\"))\nx---> saved as \"{id}\"\n--> finished \"dev\"\n\
             Got: \"{id}\"\n"
        );
        let written = view.0.into_inner().unwrap().into_inner();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}
