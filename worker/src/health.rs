//! Proves now and then that this worker can build, and has it take no jobs while it cannot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use obuilder_core::Cancel;
use obuilder_core::interpreter::{Builder, Context, Options, PlanState};
use obuilder_core::progress::Silent;
use obuilder_core::spec::Spec;

use crate::agent::Control;
use crate::metrics::{Metrics, set};
use crate::within::within;
use obuilder_core::error::chain;

const SPEC: &[u8] = b"((from scratch) (shell /bin/sh -c) (run (shell \"echo healthcheck\")))";
/// Longest time that the trivial step may run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time for all of a check, waiting for a place to run the step included.
const LONGEST: Duration = Duration::from_secs(300);
/// How long checks may find no place to run in while no step ends: then it is not the jobs that are busy.
const HUNG: Duration = Duration::from_secs(60 * 60);
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
    let (checked, late) = within(longest, cancel, check);
    checked.map_err(|why| match late {
        true => format!("it took longer than {} s", longest.as_secs()),
        false => why,
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
    let (mut healthy, mut crowded) = (true, Crowded::default());
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
        let placeless = checked.is_err() && began.elapsed() >= LONGEST && control.running() > 0;
        if crowded.excuse(placeless, steps_ended(&metrics), began) {
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

/// Steps that have come to any end.
fn steps_ended(metrics: &Metrics) -> u64 {
    let counts = [&metrics.cache_misses, &metrics.failed_steps, &metrics.killed_steps];
    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Since when checks had no place to run in, and how many steps had ended then.
#[derive(Default)]
struct Crowded(Option<(Instant, u64)>);

impl Crowded {
    /// Whether a check that began at `began` proves nothing: jobs may have taken all places, as long as they go on.
    fn excuse(&mut self, placeless: bool, ended: u64, began: Instant) -> bool {
        if !placeless {
            self.0 = None;
            return false;
        }
        match self.0 {
            Some((since, before)) if before == ended => since.elapsed() < HUNG,
            _ => {
                self.0 = Some((began, ended));
                true
            }
        }
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

    #[test]
    fn jobs_that_never_end_a_step_are_no_excuse_for_ever() {
        let (now, mut crowded) = (Instant::now(), Crowded::default());
        assert!(!crowded.excuse(false, 1, now), "it had a place");
        assert!(crowded.excuse(true, 1, now));
        assert!(crowded.excuse(true, 1, now), "it may be a long step");
        let Some(long_ago) = now.checked_sub(HUNG) else { return };
        crowded.0 = Some((long_ago, 1));
        assert!(!crowded.excuse(true, 1, now), "nothing has moved");
        assert!(crowded.excuse(true, 2, now), "a step has ended");
        assert!(crowded.excuse(true, 2, now));
    }
}
