//! Build specs, ids, the interpreter, the result cache, and the contracts that back ends implement.
//!
//! Start with [`contracts`]: the three traits every back end implements. The modules below stand in
//! reading order; the first ones are pure (no I/O), the later ones use them.
//!
//! This crate never prints, reads the environment or exits; it speaks through return values,
//! [`progress::Observer`] and `tracing`.

#![forbid(unsafe_code)]

pub mod sexp;
pub mod spec;

pub mod dockerfile;
pub mod id;
pub mod manifest;

pub mod cache;
pub mod cancel;
pub mod carry;
pub mod contracts;
pub mod error;
pub mod fault;
pub mod finding;
pub mod interpreter;
pub mod log;
pub mod order;
pub mod progress;
pub mod redact;
pub mod snapshot;
pub mod step;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod units;

mod index;

pub use bstr;
pub use cancel::Cancel;
pub use contracts::{Fetcher, Sandbox, Store};
pub use id::ResultId;
pub use log::BuildLog;
