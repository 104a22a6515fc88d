//! The two ways an S-expression is printed, and how atoms are quoted.
//!
//! Everything printed is printable ASCII.

use std::fmt;

use bstr::ByteSlice;

use super::Sexp;

impl Sexp {
    /// The machine form, which ids are made of: a blank stands only between two atoms neither of which is quoted.
    pub fn to_machine(&self) -> String {
        let mut out = String::new();
        print_machine(self, false, &mut out);
        out
    }
}

/// The form for people: one line, a blank between any two items.
impl fmt::Display for Sexp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Atom(text) if must_quote(text) => f.write_str(&quoted(text)),
            Self::Atom(text) => write!(f, "{text}"),
            Self::List(items) => {
                f.write_str("(")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { " " })?;
                }
                f.write_str(")")
            }
        }
    }
}

/// `text` between double quotes, with OCaml's escapes.
pub fn quoted(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text {
        push_escaped(*byte, &mut out);
    }
    out.push('"');
    out
}

/// Prints `sexp` behind what `out` holds; returns whether it ends with a bare atom.
fn print_machine(sexp: &Sexp, after_bare: bool, out: &mut String) -> bool {
    match sexp {
        Sexp::Atom(text) if must_quote(text) => {
            out.push_str(&quoted(text));
            false
        }
        Sexp::Atom(text) => {
            if after_bare {
                out.push(' ');
            }
            // Bare atoms are ASCII.
            out.extend(text.iter().map(|byte| char::from(*byte)));
            true
        }
        Sexp::List(items) => {
            out.push('(');
            items.iter().fold(false, |bare, item| print_machine(item, bare, out));
            out.push(')');
            false
        }
    }
}

fn must_quote(text: &[u8]) -> bool {
    let special = |byte: u8| !byte.is_ascii_graphic() || b"\"();\\".contains(&byte);
    text.is_empty()
        || text.iter().any(|byte| special(*byte))
        || text.contains_str("#|")
        || text.contains_str("|#")
}

fn push_escaped(byte: u8, out: &mut String) {
    match byte {
        b'"' => out.push_str("\\\""),
        b'\\' => out.push_str("\\\\"),
        b'\n' => out.push_str("\\n"),
        b'\t' => out.push_str("\\t"),
        b'\r' => out.push_str("\\r"),
        b'\x08' => out.push_str("\\b"),
        b' '..=b'~' => out.push(char::from(byte)),
        other => out.push_str(&format!("\\{other:03}")),
    }
}
