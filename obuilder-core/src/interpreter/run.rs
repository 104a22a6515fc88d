//! The operation `run`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bstr::{BString, ByteSlice};

use super::secrets::Redacting;
use super::{Build, BuildError, Context, State};
use crate::cache::{Client, StepFailure, StepRequest, Workspace};
use crate::contracts::{Sandbox, Snapshot, Store};
use crate::error::StoreError;
use crate::id::{ResultId, RunKey};
use crate::redact::Redactor;
use crate::spec::Run;
use crate::step::{CacheMount, Outcome, SecretMount, Step};

/// The step that `run` asks for, its caches not yet leased.
pub(super) fn step(
    state: &State,
    run: &Run,
    context: &Context,
    timeout: Option<Duration>,
    heading: &str,
) -> Result<Step, BuildError> {
    let secret = |wanted: &crate::spec::Secret| {
        let given = context.secrets.iter().find(|(id, _)| *id == wanted.id);
        let value =
            given.map(|(_, value)| value.clone()).ok_or_else(|| BuildError::MissingSecret {
                id: wanted.id.clone(),
                heading: heading.to_owned(),
                given: context.secrets.iter().map(|(id, _)| id.clone()).collect(),
            })?;
        Ok(SecretMount { id: wanted.id.clone(), target: wanted.target.clone(), value })
    };
    let cache = |cache: &crate::spec::Cache| CacheMount {
        id: cache.id.clone(),
        dir: Default::default(),
        target: cache.target.clone(),
    };
    Ok(Step {
        argv: state.shell.iter().cloned().chain([run.shell.clone()]).collect(),
        workdir: state.workdir.clone(),
        env: first_of_each(&state.env),
        user: state.user.clone(),
        network: run.network.clone(),
        caches: run.cache.iter().map(cache).collect(),
        secrets: run.secrets.iter().map(secret).collect::<Result<_, BuildError>>()?,
        timeout,
    })
}

/// The entries that count, where a caller's environment names what the image's does.
fn first_of_each(env: &[(BString, BString)]) -> Vec<(BString, BString)> {
    let mut names = HashSet::new();
    env.iter().filter(|(name, _)| names.insert(name)).cloned().collect()
}

/// The id of the result of `step`, which runs `command` on `base`.
pub(super) fn id(state: &State, step: &Step, command: &Run, base: &ResultId) -> ResultId {
    RunKey {
        base,
        workdir: state.workdir.as_bstr(),
        user: &state.user,
        env: &state.env,
        cmd: command.shell.as_bstr(),
        shell: &state.shell,
        network: &command.network,
        secrets: &step.secrets,
    }
    .id()
}

impl Build<'_> {
    pub(super) fn run(
        &self,
        run: &Run,
        state: &State,
        base: &Arc<Snapshot>,
        heading: String,
        client: &Client<'_>,
    ) -> Result<Arc<Snapshot>, BuildError> {
        let step = step(state, run, self.context, self.options.timeout, &heading)?;
        let id = id(state, &step, run, base.id());
        let (cache, sandbox, pin) =
            (self.builder.cache.clone(), self.builder.sandbox.clone(), base.clone());
        let values = step.secrets.iter().map(|secret| secret.value.as_slice());
        let redactor = self.options.redact.then(|| Redactor::new(values)).flatten();
        let (hidden, log_cap) = (redactor.clone(), self.options.log_cap);
        let request = StepRequest {
            id,
            fresh: false,
            base: Some(base.id().clone()),
            heading,
            keep_failed: self.options.keep_failed,
            surroundings: state.surroundings(&run.network),
            work: Box::new(move |workspace| {
                let _pin = pin;
                log_cap.inspect(|cap| workspace.log.limit(*cap));
                perform(step, cache.store(), &*sandbox, workspace, hidden.as_ref()).map(|()| None)
            }),
        };
        let Some(redactor) = redactor else { return self.renewed_step(request, client) };
        // The log may come from somebody who did not hide them.
        let observer = Redacting::new(client.observer, &redactor);
        self.renewed_step(request, &Client { observer: &observer, ..*client })
    }
}

/// Runs the step with its caches.
fn perform(
    mut step: Step,
    store: &dyn Store,
    sandbox: &dyn Sandbox,
    workspace: &Workspace<'_>,
    redactor: Option<&Redactor>,
) -> Result<(), StepFailure> {
    // Once more, now that the image's environment is known.
    sandbox.check(&step)?;
    let mut leases = Vec::new();
    for mount in &mut step.caches {
        let lease = store.cache(mount.id.as_bstr())?;
        mount.dir = lease.dir().to_owned();
        leases.push(lease);
    }
    let rootfs = workspace.dir.join("rootfs");
    let log = redactor.map_or_else(|| workspace.log.clone(), |hides| workspace.log.redacted(hides));
    let outcome = sandbox.run(&step, &rootfs, &log, workspace.cancel, workspace.waiting);
    let released = log.release();
    let outcome = outcome?;
    released.map_err(|source| StoreError::io("write the end of the build log", source))?;
    // A cancelled command was stopped anywhere: what it left in a cache is not worth keeping.
    if outcome != Outcome::Cancelled {
        for (lease, mount) in leases.into_iter().zip(&step.caches) {
            if let Err(error) = lease.release() {
                tracing::warn!("the cache `{}` stays as it was: {error}", mount.id);
            }
        }
    }
    match outcome {
        Outcome::Exited(0) => Ok(()),
        Outcome::Exited(status) => {
            Err(StepFailure::Command(format!("the command ended with exit status {status}")))
        }
        Outcome::Signalled(signal) => {
            Err(StepFailure::Command(format!("the command was killed by {}", name(signal))))
        }
        Outcome::TimedOut(limit) => Err(StepFailure::Command(format!(
            "the command was stopped at its time limit of {}",
            seconds(limit)
        ))),
        Outcome::Cancelled => Err(StepFailure::Cancelled),
    }
}

fn name(signal: i32) -> String {
    let known = nix::sys::signal::Signal::try_from(signal);
    known.map_or_else(
        |_| format!("signal {signal}"),
        |known| format!("signal {signal} ({})", known.as_str()),
    )
}

fn seconds(limit: Duration) -> String {
    if limit.subsec_nanos() == 0 {
        format!("{} s", limit.as_secs())
    } else {
        format!("{} s", limit.as_secs_f64())
    }
}
