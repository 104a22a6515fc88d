//! What is wrong with a spec, and where.

use std::fmt;

use bstr::{BStr, ByteSlice};

use crate::sexp::{Position, ReadError};

/// Most characters of a source line that [`SpecError::excerpt`] shows.
const WIDTH: usize = 100;

/// Why a text is no spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Where.
    pub position: Position,
    /// What was read there and what is allowed.
    pub message: String,
    /// What the writer probably meant.
    pub hint: Option<String>,
}

/// `LINE:COLUMN: MESSAGE`, without the hint.
impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.message)
    }
}

impl std::error::Error for SpecError {}

impl From<ReadError> for SpecError {
    fn from(error: ReadError) -> Self {
        Self { position: error.position, message: error.problem.to_string(), hint: None }
    }
}

impl SpecError {
    /// The offending line of `source`, the text that was parsed, with a caret below the place.
    ///
    /// ```text
    ///   |
    /// 3 |  (runn (shell "make"))
    ///   |   ^
    /// ```
    pub fn excerpt(&self, source: &[u8]) -> String {
        let Position { line, column } = self.position;
        let text = source.split(|byte| *byte == b'\n').nth(line - 1).unwrap_or_default();
        let shown: Vec<char> = BStr::new(text.trim_end()).chars().map(visible).collect();
        // A long line is cut so that the caret stays in sight.
        let start = if shown.len() > WIDTH { column.saturating_sub(WIDTH / 2) } else { 0 };
        let window: String = shown.iter().skip(start).take(WIDTH).collect();
        let cut = |yes| if yes { "…" } else { "" };
        let (before, after) = (cut(start > 0), cut(shown.len() > start + WIDTH));
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let caret = " ".repeat(column - 1 - start + before.chars().count());
        format!("{gutter} |\n{number} | {before}{window}{after}\n{gutter} | {caret}^\n")
    }
}

/// One column wide for every character, as far as that can be had.
fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        other if other.is_control() => '\u{fffd}',
        other => other,
    }
}
