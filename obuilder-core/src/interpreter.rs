//! Runs a spec: from its text to the id of its result.
//!
//! Nested builds come first, each in the *initial* context of its parent, and those that do not depend on each other at
//! once; then the base image; then the operations, each with its heading. `run` and `copy` make a result on the one before; the others change what later operations run in.

mod base;
mod copy;
mod error;
mod nested;
mod once;
mod place;
mod plan;
mod run;
mod secrets;
mod source;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bstr::{BString, ByteSlice};

pub use base::saved_env;
pub use error::{BuildError, CopyError, Kind};
pub use plan::{Plan, PlanState, PlanStep};

use crate::cache::meta::Surroundings;
use crate::cache::{Client, ResultCache, StepRequest};
use crate::cancel::Cancel;
use crate::contracts::{Fetcher, Sandbox, Snapshot};
use crate::id::ResultId;
use crate::progress::{Event, Observer, Stage};
use crate::spec::{Op, Spec, User, op_heading, resolve};
use nested::Helpers;
use once::{Once, Turn};

/// Builds specs with one set of back ends. Shared between threads; each build has its own [`Context`].
#[derive(Clone)]
pub struct Builder {
    /// Where results come from and go to.
    pub cache: Arc<ResultCache>,
    /// Where commands run.
    pub sandbox: Arc<dyn Sandbox>,
    /// Where base images come from.
    pub fetcher: Arc<dyn Fetcher>,
}

/// What a build is given besides its spec.
#[derive(Clone)]
pub struct Context {
    /// The directory `copy` takes files from.
    pub src_dir: PathBuf,
    /// Environment of the commands, before the image's; of two entries of one name the first counts.
    pub env: Vec<(BString, BString)>,
    /// Who runs commands, until the spec says otherwise.
    pub user: User,
    /// Where commands run, likewise.
    pub workdir: BString,
    /// What runs commands, likewise.
    pub shell: Vec<BString>,
    /// Secrets: id and value.
    pub secrets: Vec<(BString, BString)>,
}

impl Context {
    /// The context that a build starts from: no environment, root, `/`, `/usr/bin/env bash -c`.
    pub fn new(src_dir: impl Into<PathBuf>) -> Self {
        Self {
            src_dir: src_dir.into(),
            env: Vec::new(),
            user: User::ROOT,
            workdir: "/".into(),
            shell: ["/usr/bin/env", "bash", "-c"].map(BString::from).to_vec(),
            secrets: Vec::new(),
        }
    }
}

/// How to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Build every step anew (not the base images); each new result replaces the old one and what stood on that.
    pub no_cache: bool,
    /// Keep the tree of a failed step.
    pub keep_failed: bool,
    /// Longest time a command may run.
    pub timeout: Option<Duration>,
    /// Most bytes that are kept of what a command prints; the log says when there was more.
    pub log_cap: Option<u64>,
    /// Hide the values of a step's secrets in its log, for everybody who reads it now or later.
    pub redact: bool,
}

impl Default for Options {
    /// No limits, nothing kept or built anew, secrets hidden.
    fn default() -> Self {
        Self { no_cache: false, keep_failed: false, timeout: None, log_cap: None, redact: true }
    }
}

impl Builder {
    /// Builds `spec` and gives the id of its result.
    ///
    /// Nested builds run at once as far as they can and the sandbox has slots; with one slot, in the order of the spec.
    /// When several fail, the error is that of the first of them in the spec.
    ///
    /// What the spec asks for and cannot be had (secrets, things the sandbox cannot do) is an error before anything runs.
    pub fn build(
        &self,
        spec: &Spec,
        context: &Context,
        options: &Options,
        cancel: &Cancel,
        observer: &dyn Observer,
    ) -> Result<ResultId, BuildError> {
        self.check(spec, context)?;
        let shared = Shared {
            bases: Once::default(),
            renewed: Once::default(),
            helpers: Helpers::new(self.sandbox.capabilities().slots),
        };
        if options.redact {
            secrets::warn_of_short(spec, context, observer);
        }
        let build = Build { builder: self, context, options, cancel, observer, shared: &shared };
        let result = build.spec(spec, &Stage::default(), &Scope::default());
        self.cache.flush();
        result.map(|snapshot| snapshot.id().clone())
    }

    /// Looks for what the spec asks for and cannot be had.
    fn check(&self, spec: &Spec, context: &Context) -> Result<(), BuildError> {
        for (_, nested) in &spec.builds {
            self.check(nested, context)?;
        }
        let mut state = State::new(context);
        for op in &spec.ops {
            let heading = op_heading(&state.workdir, op);
            let unsupported = |source| BuildError::Unsupported { heading: heading.clone(), source };
            match op {
                Op::Run(run) => {
                    let step = run::step(&state, run, context, None, &heading)?;
                    self.sandbox.check(&step).map_err(unsupported)?;
                }
                Op::Copy(copy) => {
                    let dst = resolve(state.workdir.as_bstr(), copy.dst.as_bstr());
                    self.sandbox.locate(dst.as_bstr()).map_err(unsupported)?;
                    self.sandbox.owner(&state.user).map_err(unsupported)?;
                }
                _ => state.apply(op),
            }
        }
        Ok(())
    }
}

/// What operations run in, and change.
#[derive(Clone)]
struct State {
    /// The newest first.
    env: Vec<(BString, BString)>,
    user: User,
    workdir: BString,
    shell: Vec<BString>,
}

impl State {
    fn new(context: &Context) -> Self {
        Self {
            env: context.env.clone(),
            user: context.user.clone(),
            workdir: context.workdir.clone(),
            shell: context.shell.clone(),
        }
    }

    /// What a step that uses `network` runs in, to be remembered with its result.
    fn surroundings(&self, network: &[BString]) -> Surroundings {
        let text = |bytes: &BString| bytes.to_str_lossy().into_owned();
        Surroundings {
            workdir: text(&self.workdir),
            env: self.env.iter().map(|(name, value)| (text(name), text(value))).collect(),
            network: network.iter().map(text).collect(),
            user: match &self.user {
                root if *root == User::ROOT => None,
                User::Ids { uid, gid } => Some(format!("{uid}:{gid}")),
                User::Name(name) => Some(text(name)),
            },
        }
    }

    /// Applies an operation that makes no result.
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Workdir(path) => self.workdir = resolve(self.workdir.as_bstr(), path.as_bstr()),
            Op::Shell(shell) => self.shell.clone_from(shell),
            Op::User(user) => self.user.clone_from(user),
            Op::Env(name, value) => {
                if let Some(old) = self.env.iter().position(|(other, _)| other == name) {
                    self.env.remove(old);
                }
                self.env.insert(0, (name.clone(), value.clone()));
            }
            Op::Comment(_) | Op::Run(_) | Op::Copy(_) => {}
        }
    }
}

/// Results of the nested builds that `copy` may name, pinned.
type Scope = HashMap<BString, Arc<Snapshot>>;

/// One build under way, or one of the nested builds in it.
#[derive(Clone, Copy)]
struct Build<'a> {
    builder: &'a Builder,
    context: &'a Context,
    options: &'a Options,
    /// Cancelled with the whole build, or when a nested build beside this one fails.
    cancel: &'a Cancel,
    observer: &'a dyn Observer,
    shared: &'a Shared,
}

/// What all nested builds of one build share.
struct Shared {
    /// Base images that were looked at: they are looked at once a build.
    bases: Once<BString>,
    /// Results that were built although there was one: this is done once a build.
    renewed: Once<ResultId>,
    /// Threads that may be started besides the caller's.
    helpers: Helpers,
}

impl Build<'_> {
    fn spec(&self, spec: &Spec, stage: &Stage, outer: &Scope) -> Result<Arc<Snapshot>, BuildError> {
        let scope = self.nested(&spec.builds, stage, outer)?;
        let client = Client { cancel: self.cancel, observer: self.observer, stage };
        let (mut result, env) = self.base(spec.from.as_bstr(), &client)?;
        let mut state = State::new(self.context);
        state.env.extend(env);
        for op in &spec.ops {
            if self.cancel.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            let heading = op_heading(&state.workdir, op);
            client.tell(Event::Heading { text: &heading });
            match op {
                Op::Run(run) => result = self.run(run, &state, &result, heading, &client)?,
                Op::Copy(copy) => {
                    result = self.copy(copy, &state, &scope, &result, heading, &client)?
                }
                _ => state.apply(op),
            }
        }
        Ok(result)
    }

    /// Has a step built, and says what failed in terms of the spec.
    fn step(&self, request: StepRequest, client: &Client<'_>) -> Result<Arc<Snapshot>, BuildError> {
        let (id, heading) = (request.id.clone(), request.heading.clone());
        self.builder.cache.build(request, client).map(|(snapshot, _)| snapshot).map_err(|failure| {
            // A client that joined the step has what the one who began it asked for.
            let kept = matches!(self.builder.cache.store().kept(&id), Ok(Some(_)));
            BuildError::from_failure(failure, id, heading, kept)
        })
    }

    /// The same for a step that `no_cache` has built although there is a result: once a build.
    fn renewed_step(
        &self,
        mut request: StepRequest,
        client: &Client<'_>,
    ) -> Result<Arc<Snapshot>, BuildError> {
        if !self.options.no_cache {
            return self.step(request, client);
        }
        let turn = self.shared.renewed.enter(&request.id, client.cancel);
        let turn = turn.ok_or(BuildError::Cancelled)?;
        request.fresh = matches!(turn, Turn::First(_));
        let result = self.step(request, client)?;
        turn.done();
        Ok(result)
    }
}
