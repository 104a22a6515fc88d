//! From an S-expression to a [`Spec`].

use bstr::BString;

use super::fault::{
    Fault, Result, name_of, nearest, one_text, quote_names, tag, text, texts, values,
};
use super::operation::{copy, env, run, user};
use super::{Op, Spec, SpecError};
use crate::sexp::{Node, Position};

const OPS: [&str; 7] = ["comment", "workdir", "shell", "run", "copy", "user", "env"];

impl Spec {
    /// Reads `source`, which must hold exactly one spec.
    pub fn parse(source: &[u8]) -> std::result::Result<Self, SpecError> {
        let node = Node::parse(source)?;
        spec(&node, &mut Vec::new()).map_err(|fault| SpecError {
            position: Position::of(source, fault.offset),
            message: fault.message,
            hint: fault.hint,
        })
    }
}

/// `scope` holds the builds that `copy` may name here; those of this level are added, and taken away again.
fn spec(node: &Node, scope: &mut Vec<BString>) -> Result<Spec> {
    let outer = scope.len();
    let Some(items) = node.as_list() else {
        return Err(Fault::new(node, format!("expected a spec, found {}", Fault::show(node))));
    };
    let count = items.iter().take_while(|item| tag(item) == Some(b"build")).count();
    let builds = builds(&items[..count], scope)?;
    let (from, ops) = match &items[count..] {
        [] => return Err(Fault::new(node, "this spec lacks its `(from BASE)`".to_owned())),
        [from, ops @ ..] if tag(from) == Some(b"from") => (one_text(from, "(from BASE)")?, ops),
        [other, ..] => return Err(not_from(other)),
    };
    let ops = ops.iter().map(|item| op(item, scope)).collect::<Result<_>>()?;
    scope.truncate(outer);
    Ok(Spec { builds, from, ops })
}

fn not_from(item: &Node) -> Fault {
    let message = format!(
        "expected `(build NAME SPEC)` or `(from BASE)`, found {}; operations come after `(from BASE)`",
        Fault::show(item)
    );
    let hint = tag(item).and_then(|tag| nearest(tag, &["build", "from"]));
    Fault { offset: item.offset, message, hint }
}

fn builds(items: &[Node], scope: &mut Vec<BString>) -> Result<Vec<(BString, Spec)>> {
    let mut builds: Vec<(BString, Spec)> = Vec::new();
    for item in items {
        let [name_node, child] = values(item) else {
            let message = format!("expected `(build NAME SPEC)`, found {}", Fault::show(item));
            return Err(Fault::new(item, message));
        };
        let name = text(name_node, "the name of a build")?;
        if builds.iter().any(|(earlier, _)| *earlier == name) {
            let message = format!("a second build is called {}", Fault::show(name_node));
            return Err(Fault::new(name_node, message));
        }
        let child = spec(child, scope)?;
        scope.push(name.clone());
        builds.push((name, child));
    }
    Ok(builds)
}

fn op(node: &Node, scope: &[BString]) -> Result<Op> {
    let Some(name) = name_of(node) else {
        let message = format!(
            "expected an operation, found {}; allowed are {}",
            Fault::show(node),
            quote_names(&OPS)
        );
        return Err(Fault::new(node, message));
    };
    match name.as_atom().map_or(b"".as_slice(), |name| name) {
        b"comment" => one_text(node, "(comment TEXT)").map(Op::Comment),
        b"workdir" => one_text(node, "(workdir DIR)").map(Op::Workdir),
        b"shell" => texts(values(node), "an argument of the shell").map(Op::Shell),
        b"run" => run(node).map(Op::Run),
        b"copy" => copy(node, scope).map(Op::Copy),
        b"user" => user(node).map(Op::User),
        b"env" => env(node),
        b"from" => Err(Fault::new(node, "found a second `(from …)`".to_owned())),
        b"build" => {
            Err(Fault::new(node, "found `(build …)` behind `(from …)`: builds come first".into()))
        }
        _ => Err(Fault::unknown(name, "operation", &OPS)),
    }
}
