//! Keeping a step to its policy: what the system can do about it, and what it is told.

use obuilder_core::step::Owner;

use crate::mounts::Wanted;
use crate::policy::Policy;
use crate::slot::Slot;

/// What the system grants to steps of build users; found out once, in a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A step can have a network of its own, with loopback alone.
    pub network: bool,
    /// A step can have a view of the filesystem of its own.
    pub world: bool,
    /// A step can be kept to its policy: what it reads and writes.
    pub policy: bool,
}

/// One step to be confined.
pub(crate) struct Confined<'a> {
    /// What it may do; `None` for whatever plain permissions let it do.
    pub(crate) policy: Option<&'a Policy>,
    pub(crate) slot: &'a Slot,
    /// What has been placed in its home.
    pub(crate) wanted: &'a Wanted<'a>,
    /// Prefixes that show a part of the home.
    pub(crate) prefixes: &'a [(std::path::PathBuf, std::path::PathBuf)],
    /// Who it runs as; `None` for the calling user.
    pub(crate) owner: Option<Owner>,
    /// Whether it has a view of the filesystem of its own.
    pub(crate) has_world: bool,
}
