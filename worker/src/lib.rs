//! A worker for OCluster schedulers that builds as obuild does.
//!
//! Start with [`agent`]: it registers with a scheduler, takes jobs and serves them while they run. What does a job is an
//! [`agent::Executor`]: [`jobs::Jobs`] gets sources, and builds specs and Dockerfiles.
//!
//! Nothing here prints, parses arguments or exits: that is for the program.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod http;
pub mod image_roots;
pub mod job;
pub mod job_log;
pub mod metrics;
pub mod weight;
mod within;

pub mod agent;

pub mod docker;
pub mod docker_space;
pub mod jobs;
mod observer;
pub mod obuilder;
pub mod process;
pub mod space;
pub mod text;

pub mod endpoint;
pub mod health;

pub mod log_file;
pub mod service;
