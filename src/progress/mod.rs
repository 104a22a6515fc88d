//! How a build shows what it does: one view for each style, all driven by the build's events.

mod json;
mod plain;
mod quiet;
mod tail;
mod tty;

use std::io::{self, IsTerminal};
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::progress::Observer;

use crate::error::CommandError;
use tail::clean;

/// The styles of `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `Tty` where standard error is a terminal, else `Plain`.
    Auto,
    /// OBuilder's lines on standard output.
    Plain,
    /// A live view on standard error.
    Tty,
    /// One event a line on standard output.
    Json,
}

const STYLES: [(&str, Style); 4] =
    [("auto", Style::Auto), ("plain", Style::Plain), ("tty", Style::Tty), ("json", Style::Json)];

impl Style {
    /// Reads the value of `--progress`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let found = STYLES.iter().find(|(name, _)| *name == text);
        found.map(|(_, style)| *style).ok_or_else(|| {
            let names: Vec<_> = STYLES.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is not a way to show progress; there are {}", names.join(", "))
        })
    }

    /// The view of this style.
    pub(crate) fn view(self) -> Arc<dyn View> {
        match self {
            Style::Plain => Arc::new(plain::Plain::new(io::stdout())),
            Style::Json => Arc::new(json::Json::new(io::stdout())),
            Style::Tty => Arc::new(tty::Tty::new()),
            Style::Auto if io::stderr().is_terminal() => Arc::new(tty::Tty::new()),
            Style::Auto => Arc::new(plain::Plain::new(io::stdout())),
        }
    }
}

/// Shows a build.
pub(crate) trait View: Observer {
    /// Shows how the build ended, after its last event. The error itself is reported by the caller.
    ///
    /// An error when something could not be written to standard output, now or before.
    fn end(&self, result: Result<&ResultId, &CommandError>) -> Result<(), CommandError>;

    /// Shows a warning that concerns no step.
    fn warn(&self, text: &str);

    /// Shows something that concerns no step.
    fn note(&self, text: &str);
}

/// What is said when a step begins again.
const RESTARTED: &str =
    "whoever was building this step has gone; what it printed is void, and the step begins afresh";

/// A heading (or what a step waits for) on one line, after the names of the nested builds it belongs to.
pub(crate) fn title(stage: &[String], heading: &str) -> String {
    let words: Vec<_> = heading.split_whitespace().collect();
    let heading = clean(words.join(" ").as_bytes());
    match stage {
        [] => heading,
        names => format!("[{}] {heading}", clean(names.join("/").as_bytes())),
    }
}
