//! S-expressions as OCaml's Sexplib reads and prints them.
//!
//! Specs are written in them and ids are hashes of them, so both directions are exact: an atom is text, kept
//! byte for byte (`1.10` and `007` stay as they are), and printing quotes precisely the atoms that Sexplib quotes.

mod printer;
mod reader;

use std::fmt;

use bstr::{BStr, BString, ByteSlice};

pub use printer::quoted;
pub use reader::{MAX_DEPTH, ReadError, ReadProblem};

/// An S-expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sexp {
    /// Text, of any bytes.
    Atom(BString),
    /// A list, which may be empty.
    List(Vec<Sexp>),
}

impl Sexp {
    /// An atom.
    pub fn atom(text: impl Into<BString>) -> Self {
        Self::Atom(text.into())
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A list of atoms.
    pub fn atoms<'a>(items: impl IntoIterator<Item = &'a BString>) -> Self {
        Self::list(items.into_iter().map(|item| Self::Atom(item.clone())))
    }

    /// The list `(NAME ITEM…)`.
    pub fn tagged(name: &str, items: impl IntoIterator<Item = Self>) -> Self {
        Self::list(std::iter::once(Self::atom(name)).chain(items))
    }

    /// Reads `source`, which must hold exactly one S-expression.
    pub fn parse(source: &[u8]) -> Result<Self, ReadError> {
        Node::parse(source).map(Self::from)
    }
}

/// An S-expression that knows where it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it begins: an index into the source, in bytes.
    pub offset: usize,
    /// What it is.
    pub kind: NodeKind,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// Text, of any bytes.
    Atom(BString),
    /// A list, which may be empty.
    List(Vec<Node>),
}

impl Node {
    /// Reads `source`, which must hold exactly one S-expression.
    pub fn parse(source: &[u8]) -> Result<Self, ReadError> {
        reader::read(source)
    }

    /// Its text, when it is an atom.
    pub fn as_atom(&self) -> Option<&BString> {
        match &self.kind {
            NodeKind::Atom(text) => Some(text),
            NodeKind::List(_) => None,
        }
    }

    /// Its items, when it is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.kind {
            NodeKind::Atom(_) => None,
            NodeKind::List(items) => Some(items),
        }
    }
}

impl From<Node> for Sexp {
    fn from(node: Node) -> Self {
        match node.kind {
            NodeKind::Atom(text) => Self::Atom(text),
            NodeKind::List(items) => Self::List(items.into_iter().map(Self::from).collect()),
        }
    }
}

/// A place in a text, as editors count: both numbers begin at 1, and the column counts characters
/// (a byte that is no UTF-8 counts as one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Position {
    /// The place of the byte at `offset`; the end of `source` when there is no such byte.
    pub fn of(source: &[u8], offset: usize) -> Self {
        let before = &source[..offset.min(source.len())];
        let start = before.rfind_byte(b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Self { line, column: BStr::new(&before[start..]).chars().count() + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
