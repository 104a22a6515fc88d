//! A live view on a terminal: a line for each step, the tail of what runs, a summary.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::{Style, Term, style, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use obuilder_core::ResultId;
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};

use super::tail::Tail;
use super::{View, title};
use crate::error::CommandError;
use crate::{output, units};

/// Lines of a running step's output that are shown.
const SHOWN: usize = 5;
/// Lines of a failed step's output that stay on the screen.
const OF_FAILED: usize = 25;

/// The live view.
pub(crate) struct Tty {
    bars: MultiProgress,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The heading that came last in each stage.
    headings: HashMap<Vec<String>, String>,
    running: HashMap<Vec<String>, Running>,
    cached: usize,
    built: usize,
    failed: usize,
}

impl State {
    fn summary(&self, time: Duration) -> String {
        let steps = self.cached + self.built;
        let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        let failed =
            if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        let (time, cached, built) = (units::duration(time), self.cached, self.built);
        format!("{steps} done in {time}: {cached} cached, {built} built{failed}")
    }
}

/// A step that runs now.
struct Running {
    head: ProgressBar,
    lines: Vec<ProgressBar>,
    tail: Tail,
}

impl Tty {
    /// A view on standard error.
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State::default());
        Self { bars: MultiProgress::new(), started: Instant::now(), state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that stays.
    fn line(&self, text: &str) {
        let width = usize::from(Term::stderr().size_checked().map_or(u16::MAX, |(_, width)| width));
        let text = truncate_str(text, width, "…");
        let shown = match self.bars.is_hidden() {
            true => writeln!(io::stderr(), "{text}"),
            false => self.bars.println(&text),
        };
        // Nothing sensible can be done when standard error is closed.
        let _ = shown;
    }

    fn start(&self, state: &mut State, stage: &[String]) {
        let heading = state.headings.get(stage).map(String::as_str).unwrap_or_default();
        let head = self.bars.add(ProgressBar::new_spinner());
        head.set_style(template("{spinner:.cyan} {elapsed_short:>7}  {wide_msg}").with_key(
            "elapsed_short",
            |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{}", units::duration(state.elapsed()));
            },
        ));
        head.set_message(title(stage, heading));
        head.enable_steady_tick(Duration::from_millis(100));
        let running = Running { head, lines: Vec::new(), tail: Tail::new(OF_FAILED) };
        state.running.insert(stage.to_vec(), running);
    }

    fn output(&self, running: &mut Running, bytes: &[u8]) {
        running.tail.push(bytes);
        let lines = running.tail.last(SHOWN);
        while running.lines.len() < lines.len() {
            let above = running.lines.last().unwrap_or(&running.head);
            let bar = self.bars.insert_after(above, ProgressBar::new_spinner());
            bar.set_style(template("            │ {wide_msg:.dim}"));
            running.lines.push(bar);
        }
        for (bar, line) in running.lines.iter().zip(lines) {
            bar.set_message(line);
        }
    }

    fn finish(&self, state: &mut State, stage: &[String], end: StepEnd, elapsed: Duration) {
        let heading = state.headings.get(stage).map(String::as_str).unwrap_or_default();
        let title = title(stage, heading);
        let running = state.running.remove(stage);
        let time = units::duration(elapsed);
        let mark = |mark: &str, style: &Style, time: &str| {
            format!("{} {}  {title}", style.apply_to(mark), style.apply_to(format!("{time:>7}")))
        };
        let good = Style::new().green().for_stderr();
        let line = match end {
            StepEnd::Cached => mark("✓", &Style::new().dim().for_stderr(), "cached"),
            StepEnd::Saved => mark("✓", &good, &time),
            StepEnd::Failed => mark("✗", &Style::new().red().for_stderr(), &time),
            StepEnd::Cancelled => mark("✗", &Style::new().yellow().for_stderr(), &time),
        };
        let tail = running.map(|running| self.clear(running));
        self.line(&line);
        match end {
            StepEnd::Cached => state.cached += 1,
            StepEnd::Saved => state.built += 1,
            StepEnd::Failed => {
                state.failed += 1;
                let lines = tail.map(|tail| tail.last(OF_FAILED)).unwrap_or_default();
                lines.iter().for_each(|line| self.line(&format!("            │ {line}")));
            }
            StepEnd::Cancelled => {}
        }
    }

    fn clear(&self, running: Running) -> Tail {
        for bar in running.lines.iter().chain([&running.head]) {
            bar.finish_and_clear();
            self.bars.remove(bar);
        }
        running.tail
    }
}

impl Observer for Tty {
    fn event(&self, stage: &Stage, event: Event<'_>) {
        let stage = &stage.0[..];
        let mut state = self.lock();
        match event {
            Event::Heading { text } => {
                state.headings.insert(stage.to_vec(), text.to_owned());
            }
            Event::StepStarted { .. } => self.start(&mut state, stage),
            Event::Output { bytes } => {
                if let Some(running) = state.running.get_mut(stage) {
                    self.output(running, bytes);
                }
            }
            Event::StepFinished { end, elapsed, .. } => {
                self.finish(&mut state, stage, end, elapsed);
            }
            Event::Waiting { reason } => {
                let text = format!("  waiting  {reason}");
                self.line(&style(text).for_stderr().dim().to_string());
            }
            Event::Warning { text } => {
                let label = style("warning:").for_stderr().yellow();
                self.line(&format!("{label} {text}"));
            }
            Event::BuildStarted { .. } | Event::BuildFinished { .. } => {}
        }
    }
}

impl View for Tty {
    fn end(&self, result: Result<&ResultId, &CommandError>) -> Result<(), CommandError> {
        let mut state = self.lock();
        let running: Vec<_> = state.running.drain().collect();
        running.into_iter().for_each(|(_, running)| drop(self.clear(running)));
        if state.cached + state.built + state.failed > 0 {
            self.line(&state.summary(self.started.elapsed()));
        }
        match result {
            Ok(id) => output::print(format!("Got: \"{id}\"\n")),
            Err(_) => Ok(()),
        }
    }

    fn note(&self, text: &str) {
        self.line(&format!("note: {text}"));
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates above are well formed")
}
