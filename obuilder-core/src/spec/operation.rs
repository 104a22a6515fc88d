//! The operations that have several parts.

use bstr::{BString, ByteSlice};

use super::fault::{Fault, Result, nearest, one_text, quote_names, tag, text, texts, values};
use super::fields::Fields;
use super::{Cache, Copy, CopySource, Op, Run, Secret, User};
use crate::sexp::Node;

pub(super) fn env(node: &Node) -> Result<Op> {
    match values(node) {
        [name, value] => Ok(Op::Env(text(name, "a name")?, text(value, "a value")?)),
        _ => {
            let message = format!("expected `(env NAME VALUE)`, found {}", Fault::show(node));
            Err(Fault::new(node, message))
        }
    }
}

pub(super) fn run(node: &Node) -> Result<Run> {
    let allowed = ["cache", "network", "secrets", "shell"];
    let fields = Fields::read("run", node.offset, values(node), &allowed)?;
    Ok(Run {
        cache: mounts(&fields, "cache", |id, target, buildkit_options| Cache {
            id,
            target,
            buildkit_options,
        })?,
        network: texts(fields.optional("network"), "the name of a network")?,
        secrets: mounts(&fields, "secrets", |id, target, buildkit_options| Secret {
            id,
            target,
            buildkit_options,
        })?,
        shell: one_text(fields.required("shell")?, "(shell COMMAND)")?,
    })
}

type Options = Vec<(BString, BString)>;

/// The caches or secrets in the field `name`.
fn mounts<T>(
    fields: &Fields<'_>,
    name: &str,
    make: impl Fn(BString, BString, Options) -> T,
) -> Result<Vec<T>> {
    let mount = |node: &Node| {
        let Some((id, items)) = node.as_list().and_then(<[Node]>::split_first) else {
            let message = format!("expected `(ID (target PATH))`, found {}", Fault::show(node));
            return Err(Fault::new(node, message));
        };
        let fields = Fields::read(name, node.offset, items, &["target", "buildkit_options"])?;
        let options = match fields.find("buildkit_options") {
            Some(field) => pairs(fields.single(field, "(buildkit_options ((NAME VALUE)…))")?)?,
            None => Options::new(),
        };
        let target = one_text(fields.required("target")?, "(target PATH)")?;
        Ok(make(text(id, "an id")?, target, options))
    };
    fields.optional(name).iter().map(mount).collect()
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

pub(super) fn copy(node: &Node, scope: &[BString]) -> Result<Copy> {
    let allowed = ["from", "src", "dst", "exclude"];
    let fields = Fields::read("copy", node.offset, values(node), &allowed)?;
    let src_field = fields.required("src")?;
    let src = texts(values(src_field), "a path")?;
    let dst_field = fields.required("dst")?;
    let dst = one_text(dst_field, "(dst PATH)")?;
    if src.is_empty() {
        return Err(Fault::new(src_field, "`src` names nothing to copy".to_owned()));
    }
    if src.len() > 1 && !dst.is_empty() && !dst.ends_with(b"/") {
        let message = "several things are copied, so `dst` must be a directory".to_owned();
        let hint = Some("end `dst` with `/`".to_owned());
        return Err(Fault { offset: dst_field.offset, message, hint });
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
    let name_node = &values(node)[0];
    let names: Vec<_> = scope.iter().map(|name| name.to_str_lossy()).collect();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let others = match names.as_slice() {
        [] => "there is none before this".to_owned(),
        names => format!("those before this are {}", quote_names(names)),
    };
    let message = format!("no build is called {}; {others}", Fault::show(name_node));
    Err(Fault { offset: name_node.offset, message, hint: nearest(&name, &names) })
}

pub(super) fn user(node: &Node) -> Result<User> {
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
