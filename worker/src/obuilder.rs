//! Builds specs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use obuilder_core::Cancel;
use obuilder_core::bstr::BString;
use obuilder_core::cache::StepFailure;
use obuilder_core::interpreter::{BuildError, Builder, Context, Options};
use obuilder_core::order::Spool;
use obuilder_core::spec::{Op, Spec, op_heading, resolve};
use ocluster::Secret;

use crate::image_roots::ImageRoots;
use crate::job::Outcome;
use crate::job_log::JobLog;
use crate::metrics::Metrics;
use crate::observer::ToLog;
use crate::text::quoted;
use obuilder_core::error::chain;

/// Builds specs with one store and sandbox.
pub struct Obuilder {
    builder: Builder,
    metrics: Arc<Metrics>,
    bounds: Bounds,
}

/// What one build may take.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Longest time that a step may run.
    pub timeout: Option<Duration>,
    /// Most bytes of a step's log, and what waits of the text of builds that run at once.
    pub spool: Spool,
    /// Where base images may be read from.
    pub images: ImageRoots,
}

impl Obuilder {
    /// Builds with `builder`, within `bounds`.
    pub fn new(builder: Builder, metrics: Arc<Metrics>, bounds: Bounds) -> Self {
        Self { builder, metrics, bounds }
    }

    /// What it builds with.
    pub fn builder(&self) -> &Builder {
        &self.builder
    }

    /// Builds the spec with the text `spec`, taking files from `src`; gives the id of the result.
    pub fn build(
        &self,
        spec: &[u8],
        src: &Path,
        secrets: &[Secret],
        log: &JobLog,
        cancel: &Cancel,
    ) -> Outcome {
        let spec = match Spec::parse(spec) {
            Ok(spec) => spec,
            Err(error) => return Outcome::Failed(format!("The spec cannot be read: {error}")),
        };
        if let Some(why) = self.bounds.images.refuse(&spec) {
            return Outcome::Failed(why);
        }
        let mut context = Context::new(src);
        let pair = |secret: &Secret| (BString::from(&*secret.id), BString::from(&secret.value[..]));
        context.secrets = secrets.iter().map(pair).collect();
        let Bounds { timeout, spool, .. } = self.bounds.clone();
        let options = Options { timeout, log_cap: Some(spool.most), ..Options::default() };
        let observer = ToLog::new(log, self.metrics.clone(), spool);
        let built = self.builder.build(&spec, &context, &options, cancel, &observer);
        observer.finish();
        match built {
            Ok(id) => Outcome::Succeeded(id.to_string()),
            Err(BuildError::Cancelled) => Outcome::Cancelled,
            Err(error) => Outcome::Failed(words(&spec, &error)),
        }
    }
}

/// Why a build failed: for a command as the original says it, else what went wrong and what caused it.
fn words(spec: &Spec, error: &BuildError) -> String {
    if let BuildError::Step { heading, source, .. } = error
        && let StepFailure::Command(how) = &**source
        && let Some(argv) = argv(spec, heading)
    {
        let argv: Vec<_> = argv.iter().map(|one| quoted(one)).collect();
        let how = how.replacen("the command ended", "failed", 1).replacen("the command ", "", 1);
        return format!("{} {how}", argv.join(" "));
    }
    chain(error)
}

/// The command of the step with that heading.
fn argv(spec: &Spec, heading: &str) -> Option<Vec<BString>> {
    let nested = spec.builds.iter().find_map(|(_, nested)| argv(nested, heading));
    if nested.is_some() {
        return nested;
    }
    let start = Context::new("/");
    let (mut workdir, mut shell) = (start.workdir, start.shell);
    for op in &spec.ops {
        match op {
            Op::Workdir(path) => workdir = resolve(workdir.as_ref(), path.as_ref()),
            Op::Shell(words) => shell.clone_from(words),
            Op::Run(run) if op_heading(&workdir, op) == heading => {
                shell.push(run.shell.clone());
                return Some(shell);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_heading_is_found() {
        let text = br#"((build dev ((from x) (run (shell "true")))) (from x) (shell /bin/sh -c) (workdir a)
            (run (shell "echo no; exit 3")))"#;
        let spec = Spec::parse(text).unwrap();
        let found = |heading: &str| argv(&spec, heading).map(|argv| argv.join(&b' '));
        assert_eq!(
            found(r#"/a: (run (shell "echo no; exit 3"))"#).unwrap(),
            b"/bin/sh -c echo no; exit 3"
        );
        assert_eq!(found("/: (run (shell true))").unwrap(), b"/usr/bin/env bash -c true");
        assert_eq!(found("/: (run (shell false))"), None);
    }
}
