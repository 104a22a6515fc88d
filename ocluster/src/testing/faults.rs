//! What a test has go wrong.

use std::collections::VecDeque;

/// A call that a worker makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `Registration.register`
    Register,
    /// `Queue.pop`
    Pop,
    /// `Queue.setActive`
    SetActive,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is dropped instead of an answer.
    Drop,
    /// No answer ever comes.
    Stall,
    /// The call fails.
    Fail,
}

/// Faults still to happen, each once, in order.
#[derive(Debug, Default)]
pub(super) struct Faults(VecDeque<(Call, Fault)>);

impl Faults {
    pub(super) fn add(&mut self, call: Call, fault: Fault) {
        self.0.push_back((call, fault));
    }

    /// The fault that happens to this `call`.
    pub(super) fn take(&mut self, call: Call) -> Option<Fault> {
        let at = self.0.iter().position(|(other, _)| *other == call)?;
        self.0.remove(at).map(|(_, fault)| fault)
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }
}
