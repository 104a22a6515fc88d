//! What a check of a store finds.

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
    pub fn new<E: std::fmt::Display>(
        id: Option<&ResultId>,
        what: impl Into<String>,
        how: impl Into<String>,
        repair: Option<impl FnOnce() -> Result<(), E>>,
    ) -> Self {
        let how = how.into();
        let repair = match repair.map(|repair| repair()) {
            None => Repair::Would(how),
            Some(Ok(())) => Repair::Done(how),
            Some(Err(error)) => Repair::Failed(error.to_string()),
        };
        Self { id: id.cloned(), what: what.into(), repair }
    }

    /// Something wrong that nothing can be done about.
    pub fn lasting(id: Option<&ResultId>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { id: id.cloned(), what: what.into(), repair: Repair::Failed(why.into()) }
    }
}
