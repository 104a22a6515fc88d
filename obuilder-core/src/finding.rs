//! What a look at a store finds.

use std::collections::HashMap;

use crate::error::chain;
use crate::id::ResultId;

/// Something in a store that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The result it is about, if it is about one.
    pub id: Option<ResultId>,
    /// What is wrong, one sentence without a full stop.
    pub what: String,
    /// What came of it.
    pub repair: Repair,
}

/// What came of a finding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repair {
    /// A check that may repair would do this.
    Would(String),
    /// This was done.
    Done(String),
    /// It could not be repaired: why.
    Failed(String),
}

impl Finding {
    /// Something wrong, which `repair` puts right where that is allowed; `how` completes "would …" and tells what was done.
    pub fn new<E: std::error::Error + 'static>(
        id: Option<&ResultId>,
        what: impl Into<String>,
        how: impl Into<String>,
        repair: Option<impl FnOnce() -> Result<(), E>>,
    ) -> Self {
        let how = how.into();
        let repair = match repair.map(|repair| repair()) {
            None => Repair::Would(how),
            Some(Ok(())) => Repair::Done(how),
            Some(Err(error)) => Repair::Failed(chain(&error)),
        };
        Self { id: id.cloned(), what: what.into(), repair }
    }

    /// Something wrong that nothing can be done about.
    pub fn lasting(id: Option<&ResultId>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { id: id.cloned(), what: what.into(), repair: Repair::Failed(why.into()) }
    }
}

/// What [`crate::Store::held`] tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Results whose bytes stay taken when they are deleted, as long as these are there: kept trees of failed steps, or (without an
    /// id) trees of steps that run.
    pub by: HashMap<ResultId, Vec<Option<ResultId>>>,
    /// What was deleted before and stays for such a reason: bytes, and for what.
    pub waiting: Vec<(u64, Vec<Option<ResultId>>)>,
}

impl Held {
    /// The results among them that something holds which is not in `gone`.
    pub fn besides(&self, gone: &[&ResultId]) -> Vec<&ResultId> {
        self.by.iter().filter(|(_, by)| is_held(by, gone)).map(|(id, _)| id).collect()
    }

    /// Bytes of what was deleted before that something holds which is not in `gone`.
    pub fn waiting_besides(&self, gone: &[&ResultId]) -> u64 {
        self.waiting.iter().filter(|(_, by)| is_held(by, gone)).map(|(size, _)| size).sum()
    }
}

fn is_held(by: &[Option<ResultId>], gone: &[&ResultId]) -> bool {
    by.iter().any(|by| by.as_ref().is_none_or(|id| !gone.contains(&id)))
}

/// What [`crate::Store::reconcile`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// In the store, unknown to the index.
    pub unknown: Vec<ResultId>,
    /// In the index, missing from the store.
    pub missing: Vec<ResultId>,
    /// What was swept away, for the log.
    pub swept: Vec<String>,
    /// Results that the unknown ones were made from, as far as the store knows by itself.
    pub bases: HashMap<ResultId, ResultId>,
}
