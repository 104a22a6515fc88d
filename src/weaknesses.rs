//! Tells what a sandbox does not isolate, when it first runs a step.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use obuilder_core::bstr::BStr;
use obuilder_core::contracts::Capabilities;
use obuilder_core::error::SandboxError;
use obuilder_core::spec::User;
use obuilder_core::step::{Outcome, Owner, Step};
use obuilder_core::{BuildLog, Cancel, Sandbox};

use crate::progress::View;

/// A sandbox that tells its weaknesses to a view before its first step; a build from the cache has nothing to hear.
pub(crate) struct Telling {
    sandbox: Arc<dyn Sandbox>,
    view: Arc<dyn View>,
    told: Once,
}

impl Telling {
    /// Tells those of `sandbox` to `view`.
    pub(crate) fn new(sandbox: Arc<dyn Sandbox>, view: Arc<dyn View>) -> Self {
        Self { sandbox, view, told: Once::new() }
    }

    fn tell(&self) {
        self.told.call_once(|| {
            if let Some(text) = sentence(&self.capabilities()) {
                self.view.warn(&text);
            }
        });
    }
}

/// The weaknesses in one line.
pub(crate) fn sentence(capabilities: &Capabilities) -> Option<String> {
    let each = &capabilities.weaknesses;
    (!each.is_empty()).then(|| format!("isolation is weak: {}", each.join("; ")))
}

impl Sandbox for Telling {
    fn capabilities(&self) -> Capabilities {
        self.sandbox.capabilities()
    }

    fn check(&self, step: &Step) -> Result<(), SandboxError> {
        self.sandbox.check(step)
    }

    fn locate(&self, path: &BStr) -> Result<PathBuf, SandboxError> {
        self.sandbox.locate(path)
    }

    fn owner(&self, user: &User) -> Result<Option<Owner>, SandboxError> {
        self.sandbox.owner(user)
    }

    fn run(
        &self,
        step: &Step,
        tree: &Path,
        log: &BuildLog,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        self.tell();
        self.sandbox.run(step, tree, log, cancel, waiting)
    }

    fn run_on_terminal(
        &self,
        step: &Step,
        tree: &Path,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        self.tell();
        self.sandbox.run_on_terminal(step, tree, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weaknesses_are_one_sentence() {
        let mut capabilities = Capabilities::default();
        assert_eq!(sentence(&capabilities), None);
        capabilities.weaknesses =
            vec!["without root steps run as you".into(), "steps see it".into()];
        let expected = "isolation is weak: without root steps run as you; steps see it";
        assert_eq!(sentence(&capabilities).unwrap(), expected);
    }
}
