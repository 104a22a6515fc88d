//! What a command failed with, how it is shown, and the exit code it ends with.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Who is to blame, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A step of the build failed.
    Step,
    /// The command line, the configuration or the spec.
    Usage,
    /// The store or the system.
    System,
    /// Someone asked to stop.
    Interrupted,
}

impl Kind {
    /// The exit code, as documented in `--help`.
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Step => 1,
            Kind::Usage => 2,
            Kind::System => 3,
            Kind::Interrupted => 130,
        }
    }
}

/// Exit codes, for `--help` and the man page.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0    success
  1    a step of the build failed
  2    the command line, the configuration or the spec is wrong
  3    the store or the system failed
  130  interrupted (SIGINT, SIGTERM or SIGHUP)";

/// Why a command failed.
#[derive(Debug, serde::Serialize)]
pub(crate) struct CommandError {
    /// Who is to blame.
    pub(crate) kind: Kind,
    message: String,
    /// The place in a file that the message is about, drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    excerpt: Option<String>,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl CommandError {
    /// An error of our own making.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let (causes, hints) = (Vec::new(), Vec::new());
        Self { kind, message: message.into(), excerpt: None, causes, hints }
    }

    /// A wrong command line, configuration or spec.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A failure of the store or the system.
    pub(crate) fn system(message: impl Into<String>) -> Self {
        Self::new(Kind::System, message)
    }

    /// An error of a library, with everything that caused it.
    pub(crate) fn from_error(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        Self::new(kind, error.to_string()).caused_by_chain(error.source())
    }

    /// Names what caused it, and what caused that.
    pub(crate) fn caused_by(self, error: &(dyn Error + 'static)) -> Self {
        self.caused_by_chain(Some(error))
    }

    /// Shows the place in a file that it is about.
    pub(crate) fn excerpt(mut self, excerpt: String) -> Self {
        self.excerpt = Some(excerpt);
        self
    }

    /// Says what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says what to do about it, when that is known.
    pub(crate) fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Message and causes on one line, and the first hint.
    pub(crate) fn brief(&self) -> (String, Option<&str>) {
        let all: Vec<_> = [&self.message].into_iter().chain(&self.causes).cloned().collect();
        (all.join(": "), self.hints.first().map(String::as_str))
    }

    /// Writes it to standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // Nothing sensible can be done when standard error is closed.
        let _ = write!(io::stderr(), "{self}");
        ExitCode::from(self.kind.code())
    }

    fn caused_by_chain(mut self, mut next: Option<&(dyn Error + 'static)>) -> Self {
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labelled = |f: &mut fmt::Formatter<'_>, label: &str, text: &str| {
            let indent = " ".repeat(label.len() + 2);
            writeln!(f, "{label}: {}", text.trim_end().replace('\n', &format!("\n{indent}")))
        };
        labelled(f, "error", &self.message)?;
        f.write_str(self.excerpt.as_deref().unwrap_or_default())?;
        self.causes.iter().try_for_each(|cause| labelled(f, "caused by", cause))?;
        self.hints.iter().try_for_each(|hint| labelled(f, "hint", hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_causes_and_what_to_do() {
        let inner = io::Error::other("disk on fire");
        let error = CommandError::system("failed to read `x`")
            .caused_by(&inner)
            .hint("put it out\nthen try again");
        let expected = "error: failed to read `x`\ncaused by: disk on fire\n\
                        hint: put it out\n      then try again\n";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kind.code(), 3);
    }
}
