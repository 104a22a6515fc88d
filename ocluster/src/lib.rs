//! OCluster's wire protocol: how a worker, a scheduler and a client find each other, and what they say.
//!
//! Start with [`uri`]: a capability URI names a service and the one server that may offer it. [`connect()`] connects to it,
//! over TLS that knows the server by its public key alone, and gives its bootstrap capability. The other modules are one
//! for each interface, with plain types; the code generated from `schema.capnp` stays private to them.
//!
//! Cap'n Proto objects belong to one thread: everything here runs in a [`tokio::task::LocalSet`].
//!
//! This crate knows the wire and nothing else: it builds nothing, and never prints, reads the environment or exits.

#![forbid(unsafe_code)]

pub mod cap_file;
pub mod uri;

pub mod connect;
mod cut;
mod identity;
mod network;
mod pin;
#[cfg(target_os = "linux")]
#[path = "linux/system.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "macos/system.rs"]
mod system;

pub mod error;
pub mod job_descr;

pub mod admin;
pub mod job;
pub mod queue;
pub mod registration;
pub mod submission;
pub mod worker;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

// It is generated; the file has another ending because nobody formats it.
#[allow(
    dead_code,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unimplemented,
    clippy::unwrap_used
)]
mod schema_capnp {
    include!("schema_capnp.inc");
}

pub use connect::{Session, connect};
pub use error::{CallError, ConnectError};
pub use job_descr::{Action, DockerBuild, Dockerfile, JobDescr, Secret};
pub use uri::CapUri;
