//! Headings of the build log, broken into lines where OBuilder breaks them.
//!
//! OBuilder leaves the breaking to OCaml's `Format` with its usual margin. Only three rules of it ever show here, so
//! they stand below as they are. One thing is meant to differ: an atom that holds newlines stays on one line.

use bstr::ByteSlice;

use super::Op;
use crate::sexp::{Sexp, quoted};

/// What must fit on a line is shorter than this, in bytes.
const MARGIN: usize = 78;
/// Nothing that may be moved to a line of its own begins behind this column.
const MAX_INDENT: usize = 68;
/// Where such a line begins.
const INDENT: usize = 2;

/// The heading of `op` in the working directory `workdir`: `WORKDIR: OP`.
pub fn op_heading(workdir: &[u8], op: &Op) -> String {
    let mut heading = Heading::new(workdir);
    match (op, op.to_sexp()) {
        (Op::Run(_) | Op::Copy(_), Sexp::List(items)) => {
            let fields: Vec<String> = items[1..].iter().map(Sexp::to_string).collect();
            heading.push(&format!("({} ", op.name()));
            let one_line = fields.join(" ");
            // `run` has every field on its own line; `copy` only if they would not all fit where they are,
            // even when they are about to move to the left.
            let fits = matches!(op, Op::Copy(_)) && heading.column + one_line.len() < MARGIN;
            heading.begin_box();
            if fits {
                heading.push(&one_line);
            } else {
                let separator = format!("\n{:1$}", "", heading.column);
                heading.push(&fields.join(&separator));
            }
            heading.push(")");
        }
        (_, sexp) => {
            heading.begin_box();
            heading.push(&sexp.to_string());
        }
    }
    heading.text
}

/// The heading of a base image: `(from BASE)`.
pub fn from_heading(base: &[u8]) -> String {
    Sexp::tagged("from", [Sexp::atom(base)]).to_string()
}

/// The heading of a nested build: `(build "NAME" …)`.
pub fn build_heading(name: &[u8]) -> String {
    format!("(build {} …)", quoted(name))
}

struct Heading {
    text: String,
    /// Bytes on the present line so far, as `Format` counts them.
    column: usize,
}

impl Heading {
    fn new(workdir: &[u8]) -> Self {
        let text = format!("{}: ", workdir.to_str_lossy());
        Self { text, column: workdir.len() + 2 }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.len();
    }

    /// Begins something that does not want to stand too far to the right.
    fn begin_box(&mut self) {
        if self.column > MAX_INDENT {
            self.text.push_str(&format!("\n{:INDENT$}", ""));
            self.column = INDENT;
        }
    }
}
