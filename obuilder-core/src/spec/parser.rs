//! From an S-expression to a [`Spec`].

use bstr::{BString, ByteSlice};

use super::fields::{Fields, values};
use super::{Cache, Copy, CopySource, Op, Run, Secret, Spec, SpecError, User};
use crate::sexp::{Node, Position, Sexp};

const OPS: [&str; 7] = ["comment", "workdir", "shell", "run", "copy", "user", "env"];
/// Most characters of a wrong item that a message shows.
const SHOWN: usize = 40;

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

    /// `read` is none of the `allowed` names of a `kind`.
    pub(super) fn unknown(node: &Node, kind: &str, read: &BString, allowed: &[&str]) -> Self {
        let shown = Self::show(node_name(node));
        let message = format!("unknown {kind} {shown}; allowed are {}", quote_names(allowed));
        Self { offset: node.offset, message, hint: nearest(read, allowed.iter().copied()) }
    }

    /// `node` as a message shows it.
    pub(super) fn show(node: &Node) -> String {
        let text = Sexp::from(node.clone()).to_string();
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("`{}…`", &text[..end]),
            None => format!("`{text}`"),
        }
    }
}

fn node_name(node: &Node) -> &Node {
    node.as_list().and_then(<[Node]>::first).unwrap_or(node)
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

fn nearest<'a>(read: &[u8], names: impl Iterator<Item = &'a str>) -> Option<String> {
    let read = read.to_str_lossy();
    let near = |name: &&str| strsim::damerau_levenshtein(&read, name);
    let name = names.filter(|name| near(name) <= 1 + name.len() / 4).min_by_key(near)?;
    Some(format!("did you mean `{name}`?"))
}

/// `scope` holds the builds that `copy` may name here; those of this level are added, and taken away again.
fn spec(node: &Node, scope: &mut Vec<BString>) -> Result<Spec> {
    let outer = scope.len();
    let Some(items) = node.as_list() else {
        return Err(Fault::new(node, format!("expected a spec, found {}", Fault::show(node))));
    };
    let mut builds: Vec<(BString, Spec)> = Vec::new();
    let mut rest = items.iter();
    for item in rest.by_ref() {
        match tag(item) {
            Some(b"build") => {
                let (name, child) = build(item, scope)?;
                if builds.iter().any(|(earlier, _)| *earlier == name) {
                    let message = format!("a second build is called `{name}`");
                    return Err(Fault::new(item, message));
                }
                scope.push(name.clone());
                builds.push((name, child));
            }
            Some(b"from") => {
                let from = one_text(item, "(from BASE)")?;
                let ops = rest.map(|item| op(item, scope)).collect::<Result<_>>()?;
                scope.truncate(outer);
                return Ok(Spec { builds, from, ops });
            }
            _ => {
                let message = format!(
                    "expected `(build NAME SPEC)` or `(from BASE)`, found {}; operations come after `(from BASE)`",
                    Fault::show(item)
                );
                let hint = tag(item).and_then(|tag| nearest(tag, ["build", "from"].into_iter()));
                return Err(Fault { offset: item.offset, message, hint });
            }
        }
    }
    Err(Fault::new(node, "this spec lacks its `(from BASE)`".to_owned()))
}

fn build(item: &Node, scope: &mut Vec<BString>) -> Result<(BString, Spec)> {
    match values(item) {
        [name, child] => Ok((text(name, "the name of a build")?, spec(child, scope)?)),
        _ => {
            let message = format!("expected `(build NAME SPEC)`, found {}", Fault::show(item));
            Err(Fault::new(item, message))
        }
    }
}

fn op(node: &Node, scope: &[BString]) -> Result<Op> {
    let Some(name) = tag(node) else {
        let message = format!(
            "expected an operation, found {}; allowed are {}",
            Fault::show(node),
            quote_names(&OPS)
        );
        return Err(Fault::new(node, message));
    };
    match name {
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
        other => Err(Fault::unknown(node, "operation", &BString::from(other), &OPS)),
    }
}

fn env(node: &Node) -> Result<Op> {
    match values(node) {
        [name, value] => Ok(Op::Env(text(name, "a name")?, text(value, "a value")?)),
        _ => {
            let message = format!("expected `(env NAME VALUE)`, found {}", Fault::show(node));
            Err(Fault::new(node, message))
        }
    }
}

fn run(node: &Node) -> Result<Run> {
    let allowed = ["cache", "network", "secrets", "shell"];
    let fields = Fields::read("run", node.offset, values(node), &allowed)?;
    let mounts = |name| fields.optional(name).iter().map(move |item| mount(item, name));
    Ok(Run {
        cache: mounts("cache")
            .map(|mount| {
                mount.map(|(id, target, buildkit_options)| Cache { id, target, buildkit_options })
            })
            .collect::<Result<_>>()?,
        network: texts(fields.optional("network"), "the name of a network")?,
        secrets: mounts("secrets")
            .map(|mount| {
                mount.map(|(id, target, buildkit_options)| Secret { id, target, buildkit_options })
            })
            .collect::<Result<_>>()?,
        shell: one_text(fields.required("shell")?, "(shell COMMAND)")?,
    })
}

type Mount = (BString, BString, Vec<(BString, BString)>);

/// A cache or a secret.
fn mount(node: &Node, kind: &str) -> Result<Mount> {
    let Some((id, items)) = node.as_list().and_then(<[Node]>::split_first) else {
        let message = format!("expected `(ID (target PATH))`, found {}", Fault::show(node));
        return Err(Fault::new(node, message));
    };
    let fields = Fields::read(kind, node.offset, items, &["target", "buildkit_options"])?;
    let options = match fields.find("buildkit_options") {
        Some(field) => pairs(fields.single(field, "(buildkit_options ((NAME VALUE)…))")?)?,
        None => Vec::new(),
    };
    Ok((text(id, "an id")?, one_text(fields.required("target")?, "(target PATH)")?, options))
}

fn pairs(node: &Node) -> Result<Vec<(BString, BString)>> {
    let wrong = |node: &Node| {
        Fault::new(node, format!("expected `((NAME VALUE)…)`, found {}", Fault::show(node)))
    };
    let pair = |item: &Node| match item.as_list() {
        Some([name, value]) => Ok((text(name, "a name")?, text(value, "a value")?)),
        _ => Err(wrong(item)),
    };
    node.as_list().ok_or_else(|| wrong(node))?.iter().map(pair).collect()
}

fn copy(node: &Node, scope: &[BString]) -> Result<Copy> {
    let allowed = ["from", "src", "dst", "exclude"];
    let fields = Fields::read("copy", node.offset, values(node), &allowed)?;
    let src_field = fields.required("src")?;
    let src = texts(values(src_field), "a path")?;
    let dst = one_text(fields.required("dst")?, "(dst PATH)")?;
    if src.is_empty() {
        return Err(Fault::new(src_field, "`src` names nothing to copy".to_owned()));
    }
    let from = match fields.find("from") {
        Some(field) => copy_source(fields.single(field, "(from SOURCE)")?, scope)?,
        None => CopySource::Context,
    };
    Ok(Copy { from, src, dst, exclude: texts(fields.optional("exclude"), "a name")? })
}

fn copy_source(node: &Node, scope: &[BString]) -> Result<CopySource> {
    if node.as_atom().is_some_and(|atom| atom == "context") {
        return Ok(CopySource::Context);
    }
    if tag(node) != Some(b"build") {
        let message = format!("expected `context` or `(build NAME)`, found {}", Fault::show(node));
        return Err(Fault::new(node, message));
    }
    let name = one_text(node, "(build NAME)")?;
    if scope.contains(&name) {
        return Ok(CopySource::Build(name));
    }
    let shown = Fault::show(&values(node)[0]);
    let names: Vec<_> = scope.iter().map(|name| name.to_str_lossy()).collect();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let message =
        format!("no earlier build is called {shown}; those before are {}", quote_names(&names));
    Err(Fault { offset: node.offset, message, hint: nearest(&name, names.into_iter()) })
}

fn user(node: &Node) -> Result<User> {
    let fields = Fields::read("user", node.offset, values(node), &["uid", "gid", "name"])?;
    let number = |name: &str| {
        let field = fields.required(name)?;
        id_number(fields.single(field, &format!("({name} NUMBER)"))?)
    };
    match fields.find("name") {
        None => Ok(User::Ids { uid: number("uid")?, gid: number("gid")? }),
        Some(field) if fields.find("uid").or(fields.find("gid")).is_none() => {
            one_text(field, "(name NAME)").map(User::Name)
        }
        Some(_) => {
            let message = "`user` has a name and numbers; give one or the other".to_owned();
            Err(Fault::new(node, message))
        }
    }
}

/// A user or group id, written as OCaml writes numbers: `1000`, `1_000`, `0x3e8`, `0o1750` or `0b1`.
fn id_number(node: &Node) -> Result<u32> {
    let read = || {
        let text = node.as_atom()?.to_str().ok()?.to_ascii_lowercase();
        let (radix, digits) = match text.get(..2) {
            Some("0x") => (16, &text[2..]),
            Some("0o") => (8, &text[2..]),
            Some("0b") => (2, &text[2..]),
            Some("0u") => (10, &text[2..]),
            _ => (10, text.strip_prefix('+').unwrap_or(&text)),
        };
        let starts_well = digits.starts_with(|first: char| first.is_digit(radix));
        starts_well.then(|| u32::from_str_radix(&digits.replace('_', ""), radix).ok())?
    };
    read().ok_or_else(|| {
        let message =
            format!("expected a number from 0 to {}, found {}", u32::MAX, Fault::show(node));
        Fault::new(node, message)
    })
}

fn tag(node: &Node) -> Option<&[u8]> {
    node.as_list()?.first()?.as_atom().map(|name| name.as_slice())
}

fn text(node: &Node, what: &str) -> Result<BString> {
    node.as_atom().cloned().ok_or_else(|| {
        Fault::new(node, format!("expected {what}, found the list {}", Fault::show(node)))
    })
}

fn texts(nodes: &[Node], what: &str) -> Result<Vec<BString>> {
    nodes.iter().map(|node| text(node, what)).collect()
}

/// The text of a node that has the form `(NAME TEXT)`.
fn one_text(node: &Node, form: &str) -> Result<BString> {
    match values(node) {
        [Node { kind: crate::sexp::NodeKind::Atom(text), .. }] => Ok(text.clone()),
        _ => Err(Fault::new(node, format!("expected `{form}`, found {}", Fault::show(node)))),
    }
}
