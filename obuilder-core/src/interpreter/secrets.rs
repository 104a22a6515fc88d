//! Keeps secrets out of what a build tells.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bstr::{BStr, ByteSlice};

use super::Context;
use crate::progress::{Event, Observer, Stage};
use crate::redact::{Redactor, SHORTEST, Stream, is_too_short};
use crate::spec::{Op, Spec};

/// Warns, once a secret, of those that `spec` uses and that are too short to be hidden.
pub(super) fn warn_of_short(spec: &Spec, context: &Context, observer: &dyn Observer) {
    let mut used = HashSet::new();
    collect(spec, &mut used);
    let short = |id: &BStr, value: &[u8]| used.contains(id) && is_too_short(value);
    for (id, _) in context.secrets.iter().filter(|(id, value)| short(id.as_bstr(), value)) {
        let text = format!(
            "the secret `{id}` has fewer than {SHORTEST} bytes and is not hidden where a step prints it"
        );
        observer.event(&Stage::default(), Event::Warning { text: &text });
    }
}

/// Ids of the secrets that steps ask for.
fn collect<'a>(spec: &'a Spec, ids: &mut HashSet<&'a BStr>) {
    spec.builds.iter().for_each(|(_, nested)| collect(nested, ids));
    for op in &spec.ops {
        if let Op::Run(run) = op {
            ids.extend(run.secrets.iter().map(|secret| secret.id.as_bstr()));
        }
    }
}

/// Passes the events of one step on, with secrets hidden in its output.
pub(super) struct Redacting<'a> {
    observer: &'a dyn Observer,
    output: Mutex<Stream>,
}

impl<'a> Redacting<'a> {
    /// Hides from `observer` what `redactor` knows.
    pub(super) fn new(observer: &'a dyn Observer, redactor: &Redactor) -> Self {
        Self { observer, output: Mutex::new(redactor.stream()) }
    }

    fn show(&self, stage: &Stage, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.observer.event(stage, Event::Output { bytes });
        }
    }
}

impl Observer for Redacting<'_> {
    fn event(&self, stage: &Stage, event: Event<'_>) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Event::Output { bytes } = event {
            return self.show(stage, &output.push(bytes));
        }
        if let Event::StepFinished { .. } | Event::StepRestarted = event {
            let rest = output.finish();
            self.show(stage, &rest);
        }
        drop(output);
        self.observer.event(stage, event);
    }
}
