//! Errors that know their place in bytes only, and the small readers that give them.

use bstr::{BString, ByteSlice};

use crate::sexp::{Node, NodeKind, Sexp};

/// Most characters of a wrong item that a message shows.
const SHOWN: usize = 40;

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// A [`SpecError`] that knows its place in bytes only.
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(node: &Node, message: String) -> Self {
        Self { offset: node.offset, message, hint: None }
    }

    /// `name`, the first item of a list, is none of the `allowed` names of a `kind`.
    pub(super) fn unknown(name: &Node, kind: &str, allowed: &[&str]) -> Self {
        let shown = Self::show(name);
        let message = format!("unknown {kind} {shown}; allowed are {}", quote_names(allowed));
        let hint = name.as_atom().and_then(|read| nearest(read, allowed));
        Self { offset: name.offset, message, hint }
    }

    /// `node` as a message shows it.
    pub(super) fn show(node: &Node) -> String {
        // Names in other scripts than Latin stay readable.
        let readable = node.as_atom().and_then(|atom| atom.to_str().ok()).filter(|text| {
            !text.is_empty() && !text.contains(|c: char| c.is_control() || " \"();\\".contains(c))
        });
        let text = readable.map_or_else(|| Sexp::from(node.clone()).to_string(), str::to_owned);
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("`{}…`", &text[..end]),
            None => format!("`{text}`"),
        }
    }
}

/// `a`, `b` and `c`.
pub(super) fn quote_names(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

pub(super) fn nearest(read: &[u8], names: &[&str]) -> Option<String> {
    let read = read.to_str_lossy().to_lowercase();
    let distance = |name: &&&str| strsim::damerau_levenshtein(&read, name);
    let near = names.iter().filter(|name| distance(name) <= 1 + name.len() / 4);
    near.min_by_key(distance).map(|name| format!("did you mean `{name}`?"))
}

/// What stands behind the name that begins a list.
pub(super) fn values(node: &Node) -> &[Node] {
    node.as_list().and_then(|items| items.get(1..)).unwrap_or_default()
}

/// The atom that begins a list.
pub(super) fn name_of(node: &Node) -> Option<&Node> {
    node.as_list()?.first().filter(|name| name.as_atom().is_some())
}

/// The text that begins a list.
pub(super) fn tag(node: &Node) -> Option<&[u8]> {
    name_of(node)?.as_atom().map(|name| name.as_slice())
}

pub(super) fn text(node: &Node, what: &str) -> Result<BString> {
    node.as_atom().cloned().ok_or_else(|| {
        Fault::new(node, format!("expected {what}, found the list {}", Fault::show(node)))
    })
}

pub(super) fn texts(nodes: &[Node], what: &str) -> Result<Vec<BString>> {
    nodes.iter().map(|node| text(node, what)).collect()
}

/// The text of a node that has the form `(NAME TEXT)`.
pub(super) fn one_text(node: &Node, form: &str) -> Result<BString> {
    match values(node) {
        [Node { kind: NodeKind::Atom(text), .. }] => Ok(text.clone()),
        several => {
            let message = format!("expected `{form}`, found {}", Fault::show(node));
            let words = several.len() > 1 && several.iter().all(|value| value.as_atom().is_some());
            let hint = words.then(|| "put text that holds blanks between `\"`".to_owned());
            Err(Fault { offset: node.offset, message, hint })
        }
    }
}
