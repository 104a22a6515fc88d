//! One thing that was looked at, and how it came out.

use std::fmt;

use console::Style;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// Builds run, with less than there could be.
    Weak,
    /// Builds cannot run.
    Broken,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, style) = match self {
            Status::Ok => ("ok", Style::new().green()),
            Status::Weak => ("weak", Style::new().yellow()),
            Status::Broken => ("broken", Style::new().red()),
        };
        write!(f, "{}", style.apply_to(text))
    }
}

/// One thing that was looked at. What is not as it should be comes with a remedy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Check {
    /// Its name, which stays the same.
    pub(super) name: &'static str,
    pub(super) status: Status,
    /// What was found.
    pub(super) finding: String,
    /// What to do about it.
    pub(super) remedy: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, finding: finding.into(), remedy: None }
    }

    pub(super) fn weak(
        name: &'static str,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { name, status: Status::Weak, finding: finding.into(), remedy }
    }

    pub(super) fn broken(
        name: &'static str,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: Status::Broken, ..Self::weak(name, finding, remedy) }
    }

    /// What could not be looked at.
    pub(super) fn unknown(
        name: &'static str,
        error: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        Self::weak(name, format!("cannot be told: {error}"), remedy)
    }
}
