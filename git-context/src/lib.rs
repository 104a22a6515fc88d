//! The Git contexts of jobs: a repository mirrored, its commits checked out and merged, its submodules filled in.
//!
//! Start with [`GitContexts::prepare`], which gives a job a directory of its own. Repositories and commits come from strangers:
//! [`Repository`] and [`CommitId`] are the only ways to name them, and what they lead to is looked at before it is written.
//!
//! The work is done by an installed `git`, which is given a configuration and an environment of this crate's making and nothing of
//! the user's or the system's: no hooks, no filters, no credential helpers, no prompts. This crate never prints, reads the environment
//! or exits. It knows nothing of builds or of schedulers.

mod error;
mod limits;

mod commit;
mod repository;
mod shown;

mod config;
mod settings;

mod lock;
mod process;

mod git;
mod job;

mod fetch;
mod mirror;
mod mirrors;
mod presence;

mod modules;
mod tree;

mod checkout;
mod submodules;

mod context;
mod contexts;

pub use commit::CommitId;
pub use config::{Config, Ssh};
pub use context::Context;
pub use contexts::{GitContexts, Request};
pub use error::{Ending, Error, Result};
pub use limits::Limits;
pub use mirrors::Pruned;
pub use repository::{Repository, Scheme};
