//! Specs back to S-expressions, in OBuilder's order of fields and without empty ones.

use bstr::BString;

use super::{Cache, Copy, CopySource, Op, Run, Secret, Spec, User};
use crate::sexp::Sexp;

impl Spec {
    /// The spec as an S-expression that [`Spec::parse`] reads back.
    pub fn to_sexp(&self) -> Sexp {
        let builds = self
            .builds
            .iter()
            .map(|(name, spec)| Sexp::tagged("build", [Sexp::atom(name.clone()), spec.to_sexp()]));
        let from = Sexp::tagged("from", [Sexp::atom(self.from.clone())]);
        Sexp::list(builds.chain([from]).chain(self.ops.iter().map(Op::to_sexp)))
    }
}

impl Op {
    /// The operation as an S-expression.
    pub fn to_sexp(&self) -> Sexp {
        let atom = |text: &BString| Sexp::atom(text.clone());
        match self {
            Self::Comment(text) => Sexp::tagged("comment", [atom(text)]),
            Self::Workdir(dir) => Sexp::tagged("workdir", [atom(dir)]),
            Self::Shell(args) => Sexp::tagged("shell", args.iter().map(atom)),
            Self::Run(run) => Sexp::tagged("run", run_fields(run)),
            Self::Copy(copy) => Sexp::tagged("copy", copy_fields(copy)),
            Self::User(user) => Sexp::tagged("user", user_fields(user)),
            Self::Env(name, value) => Sexp::tagged("env", [atom(name), atom(value)]),
        }
    }

    /// What the operation is called in a spec.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Comment(_) => "comment",
            Self::Workdir(_) => "workdir",
            Self::Shell(_) => "shell",
            Self::Run(_) => "run",
            Self::Copy(_) => "copy",
            Self::User(_) => "user",
            Self::Env(..) => "env",
        }
    }
}

impl User {
    /// The user's fields as a list of their own, as ids have them.
    pub fn to_sexp(&self) -> Sexp {
        Sexp::list(user_fields(self))
    }
}

fn run_fields(run: &Run) -> Vec<Sexp> {
    let mut fields = Vec::new();
    if !run.cache.is_empty() {
        fields.push(Sexp::tagged("cache", run.cache.iter().map(cache)));
    }
    if !run.network.is_empty() {
        fields.push(Sexp::tagged("network", atoms(&run.network)));
    }
    if !run.secrets.is_empty() {
        fields.push(Sexp::tagged("secrets", run.secrets.iter().map(secret)));
    }
    fields.push(Sexp::tagged("shell", [Sexp::atom(run.shell.clone())]));
    fields
}

fn copy_fields(copy: &Copy) -> Vec<Sexp> {
    let mut fields = Vec::new();
    if let CopySource::Build(name) = &copy.from {
        let build = Sexp::tagged("build", [Sexp::atom(name.clone())]);
        fields.push(Sexp::tagged("from", [build]));
    }
    fields.push(Sexp::tagged("src", atoms(&copy.src)));
    fields.push(Sexp::tagged("dst", [Sexp::atom(copy.dst.clone())]));
    if !copy.exclude.is_empty() {
        fields.push(Sexp::tagged("exclude", atoms(&copy.exclude)));
    }
    fields
}

fn user_fields(user: &User) -> Vec<Sexp> {
    let number = |name, id: u32| Sexp::tagged(name, [Sexp::atom(id.to_string())]);
    match user {
        User::Ids { uid, gid } => vec![number("uid", *uid), number("gid", *gid)],
        User::Name(name) => vec![Sexp::tagged("name", [Sexp::atom(name.clone())])],
    }
}

fn cache(cache: &Cache) -> Sexp {
    mount(&cache.id, &cache.target, &cache.buildkit_options)
}

fn secret(secret: &Secret) -> Sexp {
    mount(&secret.id, &secret.target, &secret.buildkit_options)
}

fn mount(id: &BString, target: &BString, options: &[(BString, BString)]) -> Sexp {
    let mut items =
        vec![Sexp::atom(id.clone()), Sexp::tagged("target", [Sexp::atom(target.clone())])];
    if !options.is_empty() {
        let pairs = options.iter().map(|(name, value)| Sexp::atoms([name, value]));
        items.push(Sexp::tagged("buildkit_options", [Sexp::list(pairs)]));
    }
    Sexp::List(items)
}

fn atoms(texts: &[BString]) -> impl Iterator<Item = Sexp> {
    texts.iter().map(|text| Sexp::atom(text.clone()))
}
