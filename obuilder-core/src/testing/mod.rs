//! For tests: conformance suites that every back end runs, and doubles that stand in for back ends.

pub mod sandbox;
#[cfg(target_os = "linux")]
pub mod shell_sandbox;
pub mod store;
pub mod strict_sandbox;
pub mod strict_store;
pub mod trouble;
