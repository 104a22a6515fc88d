//! What a build would do, without doing it.

use std::collections::HashMap;
use std::sync::Arc;

use bstr::{BString, ByteSlice};

use super::base::{Env, Freshness, freshness, saved_env};
use super::{BuildError, Builder, Context, Scope, State, run};
use crate::cancel::Cancel;
use crate::contracts::Snapshot;
use crate::id::{ResultId, base_id};
use crate::progress::Stage;
use crate::spec::{Copy, CopySource, Op, Run, Spec, from_heading, op_heading};

/// The operations of a spec with their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of the spec, nested builds first.
    pub steps: Vec<PlanStep>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStep {
    /// The nested build it stands in.
    pub stage: Stage,
    /// Its heading.
    pub heading: String,
    /// What a build would do with it.
    pub state: PlanState,
    /// Where a base image would come from, in words.
    pub origin: Option<String>,
}

/// What a build would do with an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanState {
    /// Nothing but change the context.
    Context,
    /// Use the result there is.
    Hit(ResultId),
    /// Build it.
    Miss(ResultId),
    /// Build it; its id cannot be known before that, and why.
    Unknown(String),
}

/// What is known of a result before the build.
#[derive(Clone)]
enum Expected {
    There(Arc<Snapshot>),
    /// It is missing; what stands on it may be there all the same.
    Missing(ResultId),
    /// It will be built anew, with everything that stands on it.
    Renewed(ResultId),
    Unknown,
}

impl Expected {
    fn id(&self) -> Option<&ResultId> {
        match self {
            Self::There(snapshot) => Some(snapshot.id()),
            Self::Missing(id) | Self::Renewed(id) => Some(id),
            Self::Unknown => None,
        }
    }
}

impl Builder {
    /// Says what [`Builder::build`] would do, running nothing and importing nothing.
    pub fn plan(&self, spec: &Spec, context: &Context) -> Result<Plan, BuildError> {
        self.check(spec, context)?;
        let mut plan = Plan::default();
        self.plan_spec(&mut plan, spec, context, &Stage::default(), &HashMap::new())?;
        Ok(plan)
    }

    fn plan_spec(
        &self,
        plan: &mut Plan,
        spec: &Spec,
        context: &Context,
        stage: &Stage,
        outer: &HashMap<BString, Expected>,
    ) -> Result<Expected, BuildError> {
        let mut scope = outer.clone();
        for (name, nested) in &spec.builds {
            let mut inner = stage.clone();
            inner.0.push(name.to_str_lossy().into_owned());
            let expected = self.plan_spec(plan, nested, context, &inner, &scope)?;
            scope.insert(name.clone(), expected);
        }
        let (mut base, env) = self.plan_base(spec)?;
        plan.steps.push(PlanStep {
            stage: stage.clone(),
            heading: from_heading(&spec.from),
            state: shown(&base, ""),
            origin: self.fetcher.origin(spec.from.as_bstr()),
        });
        let mut add = |heading, state| {
            plan.steps.push(PlanStep { stage: stage.clone(), heading, state, origin: None });
        };
        let mut state = State::new(context);
        state.env.extend(env);
        for op in &spec.ops {
            let heading = op_heading(&state.workdir, op);
            let planned = match op {
                Op::Run(run) => {
                    base = self.plan_run(run, &state, context, &base, &heading)?;
                    shown(&base, "it stands on a step whose id is not known yet")
                }
                Op::Copy(copy) => {
                    let (expected, why) =
                        self.plan_copy(copy, &state, context, &scope, &base, &heading)?;
                    base = expected;
                    shown(&base, why)
                }
                _ => {
                    state.apply(op);
                    PlanState::Context
                }
            };
            add(heading, planned);
        }
        Ok(base)
    }

    fn plan_base(&self, spec: &Spec) -> Result<(Expected, Env), BuildError> {
        let name = spec.from.as_bstr();
        let id = base_id(name);
        let fresh = freshness(&self.cache, &*self.fetcher, name, &id, &Cancel::new())?;
        let changed = matches!(fresh, Freshness::Changed);
        match self.cache.store().result(&id)? {
            Some(result) if !changed => {
                let env = saved_env(&result).map_err(|source| {
                    crate::error::StoreError::io(
                        format!("read `{}`", result.env().display()),
                        source,
                    )
                })?;
                Ok((Expected::There(Arc::new(result)), env))
            }
            _ => {
                let env = self.fetcher.environment(name);
                let env =
                    env.map_err(|source| BuildError::Base { name: name.to_owned(), source })?;
                Ok((if changed { Expected::Renewed(id) } else { Expected::Missing(id) }, env))
            }
        }
    }

    fn plan_run(
        &self,
        run: &Run,
        state: &State,
        context: &Context,
        base: &Expected,
        heading: &str,
    ) -> Result<Expected, BuildError> {
        let Some(id) = base.id() else { return Ok(Expected::Unknown) };
        let step = run::step(state, run, context, None, heading)?;
        self.expect(run::id(state, &step, run, id), base)
    }

    fn plan_copy(
        &self,
        copy: &Copy,
        state: &State,
        context: &Context,
        scope: &HashMap<BString, Expected>,
        base: &Expected,
        heading: &str,
    ) -> Result<(Expected, &'static str), BuildError> {
        let mut pinned = Scope::new();
        if let CopySource::Build(name) = &copy.from {
            match scope.get(name) {
                Some(Expected::There(snapshot)) => {
                    drop(pinned.insert(name.clone(), snapshot.clone()))
                }
                _ => {
                    return Ok((
                        Expected::Unknown,
                        "it copies from a nested build that is still to be built",
                    ));
                }
            }
        }
        let Some(id) = base.id() else {
            return Ok((Expected::Unknown, "it stands on a step whose id is not known yet"));
        };
        let origin = self.origin(copy, &context.src_dir, &pinned);
        let looked = self
            .look(copy, &origin, state, id)
            .map_err(|source| BuildError::Copy { heading: heading.to_owned(), source })?;
        Ok((self.expect(looked.id, base)?, ""))
    }

    fn expect(&self, id: ResultId, base: &Expected) -> Result<Expected, BuildError> {
        if matches!(base, Expected::Renewed(_)) {
            return Ok(Expected::Renewed(id));
        }
        let found = self.cache.store().result(&id)?;
        Ok(found.map_or(Expected::Missing(id), |snapshot| Expected::There(Arc::new(snapshot))))
    }
}

fn shown(expected: &Expected, why_unknown: &str) -> PlanState {
    match expected {
        Expected::There(snapshot) => PlanState::Hit(snapshot.id().clone()),
        Expected::Missing(id) | Expected::Renewed(id) => PlanState::Miss(id.clone()),
        Expected::Unknown => PlanState::Unknown(why_unknown.to_owned()),
    }
}
