//! What a step may do, on any system: one value, which each system enforces in its own way.

use std::path::PathBuf;

use obuilder_core::step::Step;

use crate::config::{Config, beside};
use crate::platform;
use crate::slot::Slot;

/// What a step may do, besides what plain permissions keep it from. Paths are absolute and as the step sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// What it may read, besides what it may write; `/` is the whole system.
    pub(crate) readable: Vec<PathBuf>,
    /// What it may write, and so read.
    pub(crate) writable: Vec<PathBuf>,
    /// Where programs it executes may lie; empty for wherever it may read.
    pub(crate) executable: Vec<PathBuf>,
    /// What it must not see. What is named above and lies in it stays as said there, `/` excepted.
    pub(crate) hidden: Vec<PathBuf>,
    /// What it may reach.
    pub(crate) network: Network,
}

/// What a step may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Whatever the host reaches.
    Host,
    /// Nothing but what the step itself listens to.
    Loopback,
}

impl Policy {
    /// What `step` may do in `slot`: read the system, write its home, the remapped prefixes and the temporary directories, and
    /// see neither what the operator hides nor the other slots.
    pub(crate) fn new(config: &Config, slot: &Slot, step: &Step) -> Self {
        let home = |suffix| beside(&slot.home, suffix);
        let prefixes = config.prefixes.iter().map(|(prefix, _)| prefix.clone());
        let temporary = platform::TEMPORARY_DIRS.iter().map(PathBuf::from);
        let mut hidden = config.hidden.clone();
        hidden.extend([slot.lock_dir.clone(), home(".slots"), home(".aside")]);
        Self {
            readable: vec!["/".into(), home(".secrets")],
            writable: [home(""), home(".tmp")]
                .into_iter()
                .chain(prefixes)
                .chain(temporary)
                .collect(),
            executable: Vec::new(),
            hidden,
            network: if step.network.is_empty() { Network::Loopback } else { Network::Host },
        }
    }
}
