//! A step that another process is building: its log, followed while it grows, and how it ends.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::lock::{Notice, Waiting};
use super::running::{Running, Source};
use super::steps::Plan;
use crate::contracts::Snapshot;
use crate::log::BuildLog;

/// Shows the clients of a step what another process does for it.
pub(super) struct Elsewhere<'a> {
    running: &'a Arc<Running>,
    plan: &'a Plan,
    told: bool,
    followed: Option<Followed>,
}

/// The log of another process.
struct Followed {
    path: PathBuf,
    log: BuildLog,
    /// Whether the clients have it.
    shown: bool,
}

impl<'a> Elsewhere<'a> {
    pub(super) fn new(running: &'a Arc<Running>, plan: &'a Plan) -> Self {
        Self { running, plan, told: false, followed: None }
    }

    /// The step has a result; what have the clients seen of its log?
    pub(super) fn ended_with(mut self, result: &Snapshot) -> Source {
        self.grow();
        let seen = |followed: Followed| -> io::Result<bool> {
            followed.log.is_same(&File::open(result.log())?)
        };
        match self.followed.take().map(seen) {
            Some(Ok(true)) => Source::Built,
            _ => Source::Found,
        }
    }

    /// Goes over to the log at `path`, once it is there.
    fn follow(&mut self, path: PathBuf) {
        if self.followed.as_ref().is_some_and(|followed| followed.path == path) {
            return;
        }
        if let Ok(file) = File::open(&path) {
            let log = BuildLog::from_file(file);
            self.followed = Some(Followed { path, log, shown: false });
        }
    }

    /// Shows what has been added to the log.
    fn grow(&mut self) {
        let Some(followed) = &mut self.followed else { return };
        match followed.log.catch_up() {
            Ok(0) => {}
            Ok(_) if followed.shown => {}
            Ok(_) => {
                followed.shown = true;
                self.running.publish_elsewhere(followed.log.clone());
            }
            Err(error) => tracing::debug!("failed to follow a log: {error}"),
        }
    }
}

impl Waiting for Elsewhere<'_> {
    fn look(&mut self, notice: Notice) {
        if !std::mem::replace(&mut self.told, true) {
            self.running.publish_waiting("another process is building this step");
        }
        // Who builds anew will show what it prints itself.
        if let Some(path) = notice.log.filter(|_| !self.plan.fresh) {
            self.follow(path);
        }
        self.grow();
    }

    fn ended(&mut self, notice: Notice) -> Option<String> {
        self.grow();
        let failed = notice.failed.filter(|_| self.followed.is_some())?;
        (failed.keep || !self.plan.keep_failed).then_some(failed.reason)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // Nothing more is read from the file, whoever may still write to it.
        self.log.finish();
    }
}
