//! What a step may do, on any system: one value, which each system enforces in its own way.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use obuilder_core::step::{Owner, Step};

use crate::config::{Config, beside};
use crate::platform;
use crate::slot::{Placing, Slot};

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
    /// see neither what the operator hides, nor the other slots, nor the caller's own home; nor, where it runs as the calling user because it has no
    /// `owner`, what people keep for themselves.
    pub(crate) fn new(config: &Config, slot: &Slot, step: &Step, owner: Option<Owner>) -> Self {
        let home = |suffix| beside(&slot.home, suffix);
        let prefixes = config.prefixes.iter().map(|(prefix, _)| prefix.clone());
        let temporary = platform::TEMPORARY_DIRS.iter().map(PathBuf::from);
        let mut hidden = config.hidden.clone();
        hidden.extend([slot.lock_dir.clone(), home(".slots"), home(".aside")]);
        hidden.extend(callers_home());
        if owner.is_none() {
            hidden.extend(platform::PEOPLE.iter().map(PathBuf::from));
        }
        let homes = match (&config.fuse, slot.placing) {
            (Some(fuse), Placing::Fuse) => {
                hidden.extend([".slots", ".scoreboard"].map(|suffix| beside(&fuse.mount, suffix)));
                // As root nobody sees the step's home at its place; whatever a user sees in the mount is its own.
                vec![fuse.mount.clone()]
            }
            _ => vec![home(""), home(".tmp")],
        };
        Self {
            readable: vec!["/".into(), home(".secrets")],
            writable: homes.into_iter().chain(prefixes).chain(temporary).collect(),
            executable: Vec::new(),
            hidden,
            network: if step.network.is_empty() { Network::Loopback } else { Network::Host },
        }
    }
}

/// The calling user's home, with keys and the like; a directory of the system that only passes for one is nobody's secret.
fn callers_home() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let uid = nix::unistd::geteuid();
        let home = nix::unistd::User::from_uid(uid).ok().flatten()?.dir;
        let found = home.metadata().ok()?;
        (found.uid() == uid.as_raw() && home.parent().is_some()).then_some(home)
    };
    FOUND.get_or_init(find).clone()
}
