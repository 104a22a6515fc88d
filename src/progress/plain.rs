//! OBuilder's lines: headings, notes and output in one stream.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use obuilder_core::ResultId;
use obuilder_core::order::Order;
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};

use super::{RESTARTED, View, title};
use crate::error::CommandError;
use crate::output::{self, Sink};

/// Writes what OBuilder would print, to the byte, though builds may run at once; warnings go to standard error.
pub(crate) struct Plain<W>(Mutex<Order<Sink<W>>>);

impl<W: Write + Send> Plain<W> {
    /// A view that writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self(Mutex::new(Order::new(Sink::new(out))))
    }

    fn lock(&self) -> MutexGuard<'_, Order<Sink<W>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `line` of `stage`.
    fn line(&self, stage: &Stage, line: &str) {
        self.lock().write(&stage.0, format!("{line}\n").as_bytes());
    }
}

/// The stage of the nested build `name` in `stage`.
fn within(stage: &Stage, name: &str) -> Stage {
    Stage([&stage.0[..], &[name.to_owned()]].concat())
}

impl<W: Write + Send> Observer for Plain<W> {
    fn event(&self, stage: &Stage, event: Event<'_>) {
        match event {
            Event::BuildStarted { name, heading } => {
                let inner = within(stage, name);
                self.lock().begin(&inner.0);
                self.line(&inner, heading);
            }
            Event::BuildFinished { name, .. } => {
                let inner = within(stage, name);
                self.line(&inner, &format!("--> finished {name:?}"));
                self.lock().end(&inner.0);
            }
            Event::Heading { text } => self.line(stage, text),
            Event::StepFinished { id, end: StepEnd::Cached, .. } => {
                self.line(stage, &format!("---> using \"{id}\" from cache"));
            }
            Event::StepFinished { id, end: StepEnd::Saved, .. } => {
                self.line(stage, &format!("---> saved as \"{id}\""));
            }
            Event::Output { bytes } => self.lock().write(&stage.0, bytes),
            // On a line of its own, whatever was printed last.
            Event::StepRestarted => self.line(stage, &format!("\n---> {RESTARTED}")),
            Event::Warning { text } => output::warn(text),
            Event::Waiting { reason } => output::note("waiting", title(&stage.0, reason)),
            Event::StepStarted { .. } | Event::StepFinished { .. } => {}
        }
    }
}

impl<W: Write + Send> View for Plain<W> {
    fn end(&self, result: Result<&ResultId, &CommandError>) -> Result<(), CommandError> {
        let mut order = self.lock();
        let out = order.finish();
        if let Ok(id) = result {
            out.put(format!("Got: \"{id}\"\n").as_bytes());
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
        let (outer, stage) = (Stage::default(), Stage(vec!["dev".into()]));
        let finished = |end| Event::StepFinished { id: &id, end, elapsed: Duration::ZERO };
        view.event(&outer, Event::BuildStarted { name: "dev", heading: "(build \"dev\" …)" });
        view.event(&stage, Event::Heading { text: "(from busybox)" });
        view.event(&stage, Event::StepStarted { id: &id });
        view.event(&stage, finished(StepEnd::Cached));
        view.event(&stage, Event::Heading { text: "/: (run (shell \"printf x\"))" });
        view.event(&stage, Event::Output { bytes: b"x" });
        view.event(&stage, finished(StepEnd::Saved));
        view.event(&outer, Event::BuildFinished { name: "dev", id: &id });
        view.end(Ok(&id)).unwrap();
        let expected = format!(
            "(build \"dev\" …)\n(from busybox)\n---> using \"{id}\" from cache\n\
             /: (run (shell \"printf x\"))\nx---> saved as \"{id}\"\n--> finished \"dev\"\n\
             Got: \"{id}\"\n"
        );
        let mut order = view.0.into_inner().unwrap();
        assert_eq!(String::from_utf8_lossy(order.finish().written()), expected);
    }
}
