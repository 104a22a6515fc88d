//! The spec language: what a build script says.
//!
//! Text is kept as bytes ([`BString`]), because a spec may name any byte and ids are made of bytes.

mod error;
mod fault;
mod fields;
mod heading;
mod operation;
mod parser;
mod printer;

use bstr::{BStr, BString};

pub use error::SpecError;
pub use heading::{build_heading, from_heading, op_heading};

/// A whole build: nested builds first, then the base image and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Builds whose results `copy` may take files from, in the order they stand.
    pub builds: Vec<(BString, Spec)>,
    /// The name of the base image.
    pub from: BString,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// One operation of a [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A remark, shown in the log and otherwise without effect.
    Comment(BString),
    /// Sets the working directory of later operations; relative to the present one.
    Workdir(BString),
    /// Sets the shell (and its arguments) that later commands are given to.
    Shell(Vec<BString>),
    /// Runs a command.
    Run(Run),
    /// Copies files into the tree.
    Copy(Copy),
    /// Sets the user that later commands run as and later files belong to.
    User(User),
    /// Sets an environment variable of later commands.
    Env(BString, BString),
}

/// A command and what it may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Caches to mount.
    pub cache: Vec<Cache>,
    /// Networks to join; empty means none but loopback.
    pub network: Vec<BString>,
    /// Secrets to show.
    pub secrets: Vec<Secret>,
    /// The text given to the shell.
    pub shell: BString,
}

/// Files to copy, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Where the files come from.
    pub from: CopySource,
    /// Paths in the source.
    pub src: Vec<BString>,
    /// Where they go; a directory when it ends with `/`.
    pub dst: BString,
    /// Base names that are left out, at every depth below a `src`.
    pub exclude: Vec<BString>,
}

/// Where a [`struct@Copy`] takes its files from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// The directory given with the spec.
    Context,
    /// The result of an earlier nested build.
    Build(BString),
}

/// The user of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By number.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// By name.
    Name(BString),
}

impl User {
    /// The user of a fresh context.
    pub const ROOT: User = User::Ids { uid: 0, gid: 0 };
}

/// A cache mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The cache's name, shared by all builds of a store.
    pub id: BString,
    /// Where the step sees it.
    pub target: BString,
    /// Options that only BuildKit reads.
    pub buildkit_options: Vec<(BString, BString)>,
}

/// A secret mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The name under which the caller gives the value.
    pub id: BString,
    /// Where the step sees it.
    pub target: BString,
    /// Options that only BuildKit reads.
    pub buildkit_options: Vec<(BString, BString)>,
}

/// Where `path` of a spec is, seen from the working directory `workdir`: as OBuilder joins them, without
/// looking at `.` or `..`.
pub fn resolve(workdir: &BStr, path: &BStr) -> BString {
    if path.starts_with(b"/") {
        return path.to_owned();
    }
    let mut resolved = workdir.to_owned();
    if !resolved.is_empty() && !resolved.ends_with(b"/") {
        resolved.push(b'/');
    }
    resolved.extend_from_slice(path);
    resolved
}
