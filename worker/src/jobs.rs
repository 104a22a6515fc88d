//! Does jobs: gets their sources, and has them built.

use std::sync::Arc;

use git_context::{GitContexts, Request};
use obuilder_core::Cancel;
use ocluster::{Action, JobDescr};

use crate::agent::Executor;
use crate::docker::Docker;
use crate::job::Outcome;
use crate::job_log::JobLog;
use crate::obuilder::Obuilder;
use crate::space::Space;
use obuilder_core::error::chain;

/// Most secrets that one job may bring, and most bytes of all of them.
const MOST_SECRETS: (usize, usize) = (100, 1 << 20);

/// What does the jobs.
pub struct Jobs {
    /// Where sources come from.
    pub contexts: GitContexts,
    /// What builds specs, if anything does.
    pub obuilder: Option<Arc<Obuilder>>,
    /// What makes room for their results.
    pub space: Option<Arc<Space>>,
    /// What builds Dockerfiles.
    pub docker: Docker,
}

impl Executor for Jobs {
    fn run(&self, job: &JobDescr, log: &JobLog, cancel: &Cancel) -> Outcome {
        let include_git = match &job.action {
            Action::Docker(build) => build.include_git,
            Action::Obuilder { .. } => false,
            Action::Custom { kind } => {
                tracing::warn!("a custom job of the kind `{}` is refused", kind.escape_debug());
                return Outcome::Failed("Unsupported custom job".into());
            }
            Action::Unknown(number) => {
                return Outcome::Failed(format!("Unsupported kind of job: number {number}"));
            }
        };
        let bytes: usize = job.secrets.iter().map(|secret| secret.value.len()).sum();
        if job.secrets.len() > MOST_SECRETS.0 || bytes > MOST_SECRETS.1 {
            return Outcome::Failed("The job brings too many secrets, or too large ones".into());
        }
        // Before the sources are got: these want room, too.
        match (&job.action, &self.space) {
            (Action::Docker(_), _) => self.docker.make_room(log, cancel),
            (_, Some(space)) => space.before_a_job(cancel),
            _ => {}
        }
        let src = match self.sources(job, include_git, log, cancel) {
            Ok(src) => src,
            Err(git_context::Error::Cancelled) => return Outcome::Cancelled,
            Err(error) => return Outcome::Failed(chain(&error)),
        };
        match (&job.action, &self.obuilder) {
            (Action::Docker(build), _) => {
                self.docker.build(build, src.path(), &job.secrets, log, cancel)
            }
            (Action::Obuilder { spec }, Some(obuilder)) => {
                obuilder.build(spec, src.path(), &job.secrets, log, cancel)
            }
            _ => Outcome::Failed("This worker is not configured for use with OBuilder!".into()),
        }
    }
}

impl Jobs {
    fn sources(
        &self,
        job: &JobDescr,
        include_git: bool,
        log: &JobLog,
        cancel: &Cancel,
    ) -> git_context::Result<git_context::Context> {
        let commits = job.commits.iter().map(String::as_str);
        let request = Request::new(&job.repository, commits, include_git)?;
        let write = |bytes: &[u8]| {
            log.write(bytes);
            Ok(())
        };
        self.contexts.prepare(&request, &write, cancel)
    }
}
