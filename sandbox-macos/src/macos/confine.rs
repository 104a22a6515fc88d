//! How a step is confined here: not yet by more than its user.

use std::ffi::c_int;
use std::io;

use bstr::BString;

use crate::confine::{Abilities, Confined};

/// There are no namespaces.
pub(crate) fn probe() -> Abilities {
    Abilities { network: false, world: false }
}

/// What a child does to itself on its way to becoming the command.
#[derive(Debug)]
pub(crate) struct Confinement;

impl Confinement {
    /// Makes everything ready.
    pub(crate) fn new(_step: &Confined<'_>) -> io::Result<Self> {
        Ok(Self)
    }

    /// The command line that runs `argv` confined.
    pub(crate) fn wrap(&self, argv: Vec<BString>) -> Vec<BString> {
        argv
    }

    /// Nothing is to be done as root.
    ///
    /// # Safety
    /// None.
    pub(crate) unsafe fn enter(&self) -> c_int {
        0
    }
}
