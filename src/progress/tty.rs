//! A live view on a terminal: a line for each step, the tail of what runs, a summary.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::{Style, Term, style, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use obuilder_core::ResultId;
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};

use super::quiet::QuietInterrupt;
use super::tail::Tail;
use super::{RESTARTED, View, title};
use crate::error::CommandError;
use crate::{output, units};

/// Lines of a running step's output that are shown, at most: several steps share the terminal.
const SHOWN: usize = 5;
/// Lines of a failed step's output that stay on the screen.
const OF_FAILED: usize = 25;

/// The live view.
pub(crate) struct Tty {
    bars: MultiProgress,
    /// Restores the terminal when the view ends.
    quiet: Mutex<Option<QuietInterrupt>>,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The heading that came last in each stage.
    headings: HashMap<Vec<String>, String>,
    running: HashMap<Vec<String>, Running>,
    /// How many lines of output each of them shows.
    lines: usize,
    cached: usize,
    built: usize,
    failed: usize,
    cancelled: usize,
}

impl State {
    fn summary(&self, time: Duration) -> String {
        let steps = self.steps();
        let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        let some = |count: usize, what: &str| match count {
            0 => String::new(),
            count => format!(", {count} {what}"),
        };
        let (failed, cancelled) = (some(self.failed, "failed"), some(self.cancelled, "cancelled"));
        let (time, cached, built) = (units::duration(time), self.cached, self.built);
        format!("{steps} in {time}: {cached} cached, {built} built{failed}{cancelled}")
    }

    /// Gives each running step its part of the terminal.
    fn share(&mut self) {
        let height = Term::stderr().size_checked().map_or(u16::MAX, |(height, _)| height);
        let lines = lines_for_each(self.running.len(), usize::from(height));
        if lines != self.lines {
            self.lines = lines;
            self.running.values().for_each(|running| running.show(lines));
        }
    }

    /// How many steps have ended.
    fn steps(&self) -> usize {
        self.cached + self.built + self.failed + self.cancelled
    }
}

/// A step that runs now: one bar, so that its title and the lines below are drawn at once.
struct Running {
    bar: ProgressBar,
    title: String,
    tail: Tail,
}

impl Running {
    /// Shows the title and at most `lines` of the last lines.
    fn show(&self, lines: usize) {
        let mut text = truncate_str(&self.title, room(BESIDE_TITLE), "…").into_owned();
        for line in self.tail.last(lines) {
            let line = truncate_str(&line, room(BESIDE_TAIL), "…").into_owned();
            let line = style(line).for_stderr().dim();
            text.push_str(&format!("\n            │ {line}"));
        }
        self.bar.set_message(text);
    }
}

/// Columns that a title and a line of output leave to what stands before them, and one more.
const BESIDE_TITLE: usize = 12;
const BESIDE_TAIL: usize = 15;

/// Lines of output for each of `steps` that run at once, so that all of them are seen.
fn lines_for_each(steps: usize, height: usize) -> usize {
    // The cursor stands on a line of its own.
    let each = height.saturating_sub(1) / steps.max(1);
    each.saturating_sub(1).min(SHOWN)
}

/// The width of the terminal without `taken` columns.
fn room(taken: usize) -> usize {
    let width = Term::stderr().size_checked().map_or(u16::MAX, |(_, width)| width);
    usize::from(width).saturating_sub(taken)
}

impl Tty {
    /// A view on standard error.
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State::default());
        let quiet = Mutex::new(QuietInterrupt::on_stderr());
        Self { bars: MultiProgress::new(), quiet, started: Instant::now(), state }
    }

    fn restore_terminal(&self) {
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that stays, as much of it as there is room for.
    fn line(&self, text: &str) {
        self.text(&truncate_str(text, room(0), "…"));
    }

    /// Text that stays.
    fn text(&self, text: &str) {
        let shown = match self.bars.is_hidden() {
            true => writeln!(io::stderr(), "{text}"),
            false => self.bars.println(text),
        };
        // Nothing sensible can be done when standard error is closed.
        let _ = shown;
    }

    fn start(&self, state: &mut State, stage: &[String]) {
        let heading = state.headings.get(stage).map(String::as_str).unwrap_or_default();
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(template("{spinner:.cyan} {elapsed_short:>7}  {msg}").with_key(
            "elapsed_short",
            |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{}", units::duration(state.elapsed()));
            },
        ));
        let running = Running { bar, title: title(stage, heading), tail: Tail::new(OF_FAILED) };
        running.show(0);
        running.bar.enable_steady_tick(Duration::from_millis(100));
        state.running.insert(stage.to_vec(), running);
        state.share();
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
            StepEnd::Cancelled => mark("■", &Style::new().yellow().for_stderr(), &time),
        };
        let tail = running.map(|running| self.clear(running));
        state.share();
        self.line(&line);
        match end {
            StepEnd::Cached => state.cached += 1,
            StepEnd::Saved => state.built += 1,
            StepEnd::Failed => {
                state.failed += 1;
                let lines = tail.map(|tail| tail.last(OF_FAILED)).unwrap_or_default();
                lines.iter().for_each(|line| self.line(&format!("            │ {line}")));
            }
            StepEnd::Cancelled => state.cancelled += 1,
        }
    }

    fn clear(&self, running: Running) -> Tail {
        running.bar.finish_and_clear();
        self.bars.remove(&running.bar);
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
                let lines = state.lines;
                if let Some(running) = state.running.get_mut(stage) {
                    running.tail.push(bytes);
                    running.show(lines);
                }
            }
            Event::StepFinished { end, elapsed, .. } => {
                self.finish(&mut state, stage, end, elapsed);
            }
            Event::StepRestarted => {
                if let Some(running) = state.running.get_mut(stage) {
                    running.tail = Tail::new(OF_FAILED);
                }
                let text = format!("  waiting  {}", title(stage, RESTARTED));
                self.line(&style(text).for_stderr().dim().to_string());
            }
            Event::Waiting { reason } => {
                let text = format!("  waiting  {}", title(stage, reason));
                self.line(&style(text).for_stderr().dim().to_string());
            }
            Event::Warning { text } => self.warn(text),
            Event::BuildStarted { .. } | Event::BuildFinished { .. } => {}
        }
    }
}

impl View for Tty {
    fn end(&self, result: Result<&ResultId, &CommandError>) -> Result<(), CommandError> {
        let mut state = self.lock();
        let running: Vec<_> = state.running.drain().collect();
        running.into_iter().for_each(|(_, running)| drop(self.clear(running)));
        if state.steps() > 0 {
            self.line(&state.summary(self.started.elapsed()));
        }
        self.restore_terminal();
        match result {
            Ok(id) => output::print(format!("Got: \"{id}\"\n")),
            Err(_) => Ok(()),
        }
    }

    fn warn(&self, text: &str) {
        let label = style("warning:").for_stderr().yellow();
        self.text(&format!("{label} {text}"));
    }

    fn note(&self, text: &str) {
        // After an interrupt, the next one may end the process at once.
        self.restore_terminal();
        self.line(&format!("note: {text}"));
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates above are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_share_the_terminal() {
        for (steps, height, lines) in
            [(1, 24, 5), (3, 24, 5), (4, 24, 4), (10, 24, 1), (30, 24, 0), (0, 0, 0)]
        {
            assert_eq!(lines_for_each(steps, height), lines, "{steps} on {height}");
        }
    }
}
