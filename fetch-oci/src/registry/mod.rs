//! Registries: manifests and blobs over HTTP, by the OCI distribution specification.

mod auth;
mod client;
mod credentials;
mod download;
mod place;
mod pull;
mod push;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use pull::{Pulled, Source};
pub(crate) use push::{Upload, push};

/// When a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// For images that are not here yet.
    #[default]
    Missing,
    /// Each time, so that a changed tag is seen.
    Always,
    /// Not at all.
    Never,
}

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// Hosts (with their port, if it is in the name) that are spoken to without TLS; loopback always is.
    pub plain_http: Vec<String>,
    /// Further certificates to trust, a PEM file.
    pub certificates: Option<PathBuf>,
    /// Docker's configuration file, for credentials.
    pub docker_config: Option<PathBuf>,
    /// How many blobs come, or go, at once.
    pub parallel: usize,
    /// How often a failed request is tried again, without any progress in between.
    pub retries: u32,
    /// How long to wait before the first of these tries; each further one waits twice as long.
    pub first_wait: Duration,
    /// How long a registry may say nothing.
    pub silence: Duration,
}

impl Default for Access {
    /// Nothing but TLS, no credentials, four at once, five retries from half a second on, a minute of silence.
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            certificates: None,
            docker_config: None,
            parallel: 4,
            retries: 5,
            first_wait: Duration::from_millis(500),
            silence: Duration::from_secs(60),
        }
    }
}
