//! What a build tells, in its job's log.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use obuilder_core::order::{Order, Spool};
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};

use crate::job_log::JobLog;
use crate::metrics::{Metrics, add};
use crate::text::{heading, note};

/// What is said when a step begins again.
const RESTARTED: &str =
    "whoever was building this step has gone; what it printed is void, and the step begins afresh";

/// Writes what the original would, though builds may run at once.
pub(crate) struct ToLog {
    order: Mutex<Order<Lines>>,
    metrics: Arc<Metrics>,
}

struct Lines(JobLog);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ToLog {
    pub(crate) fn new(log: &JobLog, metrics: Arc<Metrics>, spool: Spool) -> Self {
        Self { order: Mutex::new(Order::with(Lines(log.clone()), spool)), metrics }
    }

    /// Writes what still waits: nothing more comes.
    pub(crate) fn finish(&self) {
        self.with(|order| {
            order.finish();
        });
    }

    fn with(&self, f: impl FnOnce(&mut Order<Lines>)) {
        f(&mut self.order.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write(&self, stage: &[String], text: &str) {
        self.with(|order| order.write(stage, text.as_bytes()));
    }

    fn note(&self, stage: &[String], text: &str) {
        self.write(stage, &note(SystemTime::now(), text));
    }
}

/// The stage of the nested build `name` in `stage`.
fn within(stage: &Stage, name: &str) -> Vec<String> {
    [&stage.0[..], &[name.to_owned()]].concat()
}

impl Observer for ToLog {
    fn event(&self, stage: &Stage, event: Event<'_>) {
        match event {
            Event::BuildStarted { name, heading: text } => {
                let inner = within(stage, name);
                self.with(|order| order.begin(&inner));
                self.write(&inner, &heading(text));
            }
            Event::BuildFinished { name, .. } => {
                let inner = within(stage, name);
                self.note(&inner, &format!("--> finished {name:?}"));
                self.with(|order| order.end(&inner));
            }
            Event::Heading { text } => self.write(&stage.0, &heading(text)),
            Event::StepFinished { id, end: StepEnd::Cached, .. } => {
                add(&self.metrics.cache_hits, 1);
                self.note(&stage.0, &format!("---> using \"{id}\" from cache"));
            }
            Event::StepFinished { id, end: StepEnd::Saved, .. } => {
                add(&self.metrics.cache_misses, 1);
                self.note(&stage.0, &format!("---> saved as \"{id}\""));
            }
            Event::StepFinished { end: StepEnd::Failed, .. } => add(&self.metrics.failed_steps, 1),
            Event::StepFinished { end: StepEnd::Cancelled, .. } => {
                add(&self.metrics.killed_steps, 1);
            }
            Event::Output { bytes } => self.with(|order| order.write(&stage.0, bytes)),
            Event::StepRestarted => self.note(&stage.0, &format!("---> {RESTARTED}")),
            Event::Warning { text } => self.note(&stage.0, &format!("warning: {text}")),
            Event::Waiting { .. } | Event::StepStarted { .. } => {}
        }
    }
}
