//! Proves now and then that this worker can build, and has it take no jobs while it cannot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use obuilder_core::Cancel;
use obuilder_core::interpreter::{Builder, Context, Options, PlanState};
use obuilder_core::progress::Silent;
use obuilder_core::spec::Spec;

use crate::agent::Control;
use crate::metrics::{Metrics, set};
use crate::text::chain;

const SPEC: &[u8] = b"((from scratch) (shell /bin/sh -c) (run (shell \"echo healthcheck\")))";
/// Longest time that the trivial step may run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time for all of a check, waiting for a place to run the step included.
const LONGEST: Duration = Duration::from_secs(300);
/// How soon to look again after a failure.
const AGAIN: Duration = Duration::from_secs(60);

/// Builds a trivial step, really, in bounded time; gives what went wrong.
pub fn check(builder: &Builder, cancel: &Cancel) -> Result<(), String> {
    bounded(LONGEST, cancel, |cancel| build(builder, cancel))
}

/// Has `check` stop after `longest`.
fn bounded(
    longest: Duration,
    cancel: &Cancel,
    check: impl FnOnce(&Cancel) -> Result<(), String>,
) -> Result<(), String> {
    let ((bound, _passed_on), ended) = (cancel.child(), Cancel::new());
    std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            let late = !ended.wait_timeout(longest);
            if late {
                bound.cancel();
            }
            late
        });
        let checked = check(&bound);
        ended.cancel();
        // A timer has nothing to panic about.
        let late = timer.join().unwrap_or(false);
        checked.map_err(|why| match late {
            true => format!("it took longer than {} s", longest.as_secs()),
            false => why,
        })
    })
}

fn build(builder: &Builder, cancel: &Cancel) -> Result<(), String> {
    let spec = Spec::parse(SPEC).map_err(|error| error.to_string())?;
    let context = Context::new(std::env::temp_dir());
    let plan = builder.plan(&spec, &context).map_err(|error| chain(&error))?;
    if let Some(PlanState::Hit(id)) = plan.steps.last().map(|step| &step.state)
        && let Err(error) = builder.cache.delete(id)
    {
        // Another check may run now, and this one share its step.
        tracing::info!("the last health check's result stays: {error}");
    }
    let options = Options { timeout: Some(PATIENCE), ..Options::default() };
    let built = builder.build(&spec, &context, &options, cancel, &Silent);
    built.map(drop).map_err(|error| chain(&error))
}

/// Checks every `period`, and pauses the agent of `control` for as long as checks fail. Never ends.
pub async fn watch(builder: Builder, period: Duration, control: Control, metrics: Arc<Metrics>) {
    let mut healthy = true;
    loop {
        tokio::time::sleep(if healthy { period } else { AGAIN.min(period) }).await;
        let began = Instant::now();
        let builder = builder.clone();
        let checked = tokio::task::spawn_blocking(move || check(&builder, &Cancel::new())).await;
        let checked = checked.unwrap_or_else(|error| Err(format!("it has panicked: {error}")));
        set(
            &metrics.healthcheck_ms,
            u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        if checked.is_err() && began.elapsed() >= LONGEST && control.running() > 0 {
            // All places may have been taken by jobs, which is nothing to be ill of.
            tracing::info!("the health check had no place to run in; it is tried again");
            continue;
        }
        set(&metrics.unhealthy, u64::from(checked.is_err()));
        match &checked {
            Err(why) => tracing::warn!("the health check failed: {why}"),
            Ok(()) if !healthy => tracing::info!("the health check passes again"),
            Ok(()) => {}
        }
        healthy = checked.is_ok();
        control.pause(!healthy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_ends() {
        let hangs = |cancel: &Cancel| match cancel.wait_timeout(Duration::from_secs(60)) {
            true => Err("stopped".to_owned()),
            false => Ok(()),
        };
        let found = bounded(Duration::from_millis(10), &Cancel::new(), hangs);
        assert_eq!(found.unwrap_err(), "it took longer than 0 s");
        let cancelled = Cancel::new();
        cancelled.cancel();
        let found = bounded(Duration::from_secs(60), &cancelled, hangs);
        assert_eq!(found.unwrap_err(), "stopped");
        assert_eq!(bounded(Duration::from_secs(60), &Cancel::new(), |_| Ok(())), Ok(()));
    }
}
