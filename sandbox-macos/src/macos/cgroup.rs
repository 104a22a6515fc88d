//! There are no control groups: every limit is one of a process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::limits::Limits;

/// What a group has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// CPU time used.
    pub(crate) cpu: Duration,
    /// Processes killed for want of memory.
    pub(crate) memory: u64,
    /// Forks refused.
    pub(crate) processes: u64,
}

/// No group.
#[derive(Debug, Default)]
pub(crate) struct Group;

impl Group {
    pub(crate) fn planned(_limits: &Limits, _uid: u32) -> Self {
        Self
    }

    pub(crate) fn can_limit_memory() -> bool {
        false
    }

    pub(crate) fn dirs(&self) -> Vec<&Path> {
        Vec::new()
    }

    pub(crate) fn make(&mut self, _limits: &Limits) {}

    pub(crate) fn limits_memory(&self) -> bool {
        false
    }

    pub(crate) fn limits_processes(&self) -> bool {
        false
    }

    pub(crate) fn has_failed(&self) -> bool {
        false
    }

    pub(crate) fn entrances(&self) -> &[File] {
        &[]
    }

    pub(crate) fn counts(&self) -> io::Result<Counts> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Nothing can be there.
pub(crate) fn remove_left(_dir: &Path) {}
