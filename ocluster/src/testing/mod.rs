//! A strict scheduler for tests: real TLS on loopback, real pools, and no patience with workers that break the rules.
//!
//! [`Scheduler::start`] is the way in. What a worker or client does that the protocol does not allow is a *violation*;
//! [`Scheduler::check`] fails when there was one. References are counted: objects that a worker should have let go of can be
//! waited for, so that a leak fails the test that waits.

mod faults;
mod guard;
pub mod hostile;
mod listener;
mod pool;
mod services;
mod thread;

pub use faults::{Call, Fault};
pub use thread::{Live, Scheduler, Security, Submitted};
