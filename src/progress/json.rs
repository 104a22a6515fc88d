//! One event a line, for programs; `docs/events.md` describes each.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use obuilder_core::ResultId;
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};
use serde::Serialize;

use super::View;
use crate::error::CommandError;
use crate::output::{self, Sink};

/// Writes events as JSON.
pub(crate) struct Json<W> {
    started: Instant,
    state: Mutex<State<W>>,
}

struct State<W> {
    out: Sink<W>,
    /// For each stage, the bytes of a character of which the rest is still to come.
    split: HashMap<Vec<String>, Vec<u8>>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    body: Body<'a>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stage: &'a [String],
    /// Seconds since the build began.
    at: f64,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Body<'a> {
    BuildStarted { name: &'a str },
    BuildFinished { name: &'a str, id: &'a ResultId },
    Heading { text: &'a str },
    StepStarted { id: &'a ResultId },
    Waiting { reason: &'a str },
    Warning { text: &'a str },
    Note { text: &'a str },
    Output(Text<'a>),
    StepRestarted,
    StepFinished { id: &'a ResultId, end: StepEnd, seconds: f64 },
    Result { id: &'a ResultId },
    Error(&'a CommandError),
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Text<'a> {
    Text(&'a str),
    Hex(String),
}

impl<W: Write + Send> Json<W> {
    /// A view that writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        let state = State { out: Sink::new(out), split: HashMap::new() };
        Self { started: Instant::now(), state: Mutex::new(state) }
    }

    fn write(&self, state: &mut State<W>, stage: &[String], body: Body<'_>) {
        let at = (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        let line = Line { body, stage, at };
        if let Ok(mut text) = serde_json::to_vec(&line) {
            text.push(b'\n');
            state.out.put(&text);
        }
    }

    fn output(&self, state: &mut State<W>, stage: &[String], bytes: &[u8]) {
        let mut all = state.split.remove(stage).unwrap_or_default();
        all.extend_from_slice(bytes);
        let whole = whole_characters(&all);
        if whole < all.len() {
            state.split.insert(stage.to_vec(), all.split_off(whole));
        }
        self.text(state, stage, &all);
    }

    /// Writes what was held back of a character that has not been completed.
    fn rest(&self, state: &mut State<W>, stage: &[String]) {
        if let Some(rest) = state.split.remove(stage) {
            self.text(state, stage, &rest);
        }
    }

    /// Writes `bytes` as text, and what is no text between as digits.
    fn text(&self, state: &mut State<W>, stage: &[String], bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                self.write(state, stage, Body::Output(Text::Text(chunk.valid())));
            }
            if !chunk.invalid().is_empty() {
                self.write(state, stage, Body::Output(Text::Hex(hex::encode(chunk.invalid()))));
            }
        }
    }
}

/// How many of `bytes` there are before a last character that is not complete.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

impl<W: Write + Send> Observer for Json<W> {
    fn event(&self, stage: &Stage, event: Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let body = match event {
            Event::BuildStarted { name, .. } => Body::BuildStarted { name },
            Event::BuildFinished { name, id } => Body::BuildFinished { name, id },
            Event::Heading { text } => Body::Heading { text },
            Event::StepStarted { id } => Body::StepStarted { id },
            Event::Waiting { reason } => Body::Waiting { reason },
            Event::Warning { text } => {
                output::warn(text);
                Body::Warning { text }
            }
            Event::Output { bytes } => return self.output(&mut state, &stage.0, bytes),
            Event::StepRestarted => {
                self.rest(&mut state, &stage.0);
                Body::StepRestarted
            }
            Event::StepFinished { id, end, elapsed } => {
                self.rest(&mut state, &stage.0);
                Body::StepFinished { id, end, seconds: elapsed.as_secs_f64() }
            }
        };
        self.write(&mut state, &stage.0, body);
    }
}

impl<W: Write + Send> View for Json<W> {
    fn end(&self, result: Result<&ResultId, &CommandError>) -> Result<(), CommandError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let body = match result {
            Ok(id) => Body::Result { id },
            Err(error) => Body::Error(error),
        };
        self.write(&mut state, &[], body);
        state.out.finish()
    }

    fn warn(&self, text: &str) {
        output::warn(text);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut state, &[], Body::Warning { text });
    }

    fn note(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut state, &[], Body::Note { text });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn lines(view: Json<Vec<u8>>) -> Vec<Value> {
        let out = view.state.into_inner().unwrap().out.into_inner();
        let parse = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            assert!(value.as_object_mut().unwrap().remove("at").unwrap().is_number());
            value
        };
        String::from_utf8(out).unwrap().lines().map(parse).collect()
    }

    #[test]
    fn characters_stay_whole_and_bytes_are_not_lost() {
        let view = Json::new(Vec::new());
        let (id, stage) = (ResultId::of(b"x"), Stage(vec!["dev".into()]));
        for bytes in [&b"a\xc3"[..], b"\xa9", b"\xff\xfe", b"z\xe2\x9c"] {
            view.event(&stage, Event::Output { bytes });
        }
        let elapsed = Duration::from_millis(1500);
        view.event(&stage, Event::StepFinished { id: &id, end: StepEnd::Saved, elapsed });
        view.end(Err(&CommandError::usage("no").hint("yes"))).unwrap();
        let output =
            |key: &str, text: &str| json!({"event": "output", "stage": ["dev"], key: text});
        let expected = [
            output("text", "a"),
            output("text", "é"),
            output("hex", "ff"),
            output("hex", "fe"),
            output("text", "z"),
            output("hex", "e29c"),
            json!({"event": "step-finished", "stage": ["dev"], "id": id, "end": "saved", "seconds": 1.5}),
            json!({"event": "error", "kind": "usage", "message": "no", "causes": [], "hints": ["yes"]}),
        ];
        assert_eq!(lines(view), expected);
    }
}
