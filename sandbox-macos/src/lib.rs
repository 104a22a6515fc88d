//! A build user as a sandbox: steps run as a user of their own, in a home that is theirs for the time of the step.
//!
//! This is how a Mac without containers isolates builds, and it works the same on Linux. Start with
//! [`BuildUserSandbox`]. One step goes through the modules below in the order in which they stand:
//! the spec's paths are found in the home (`paths`), the user and the home are locked (`lock`) and the user made
//! if it is missing (`user`), the tree takes the home's place (`home`), the command is started (`launch`) and
//! followed (`follow`) within its limits (`limits`), everything it started is killed (`kill`), what it left elsewhere is removed
//! (`sweep`), and the tree goes back.
//!
//! As root each step runs as the build user. As anybody else it runs as the calling user, and
//! [`obuilder_core::contracts::Capabilities::weaknesses`] says what that means.

mod error;

mod config;
mod limits;
mod paths;
mod policy;
mod slot;

#[cfg_attr(
    not(target_os = "macos"),
    allow(dead_code, reason = "it is made everywhere, so that it can be tested everywhere")
)]
mod seatbelt;

mod beneath;
mod canonical;
mod home;
mod lock;
mod mounts;
mod pool;
mod stuck;
mod sweep;
mod tree;
mod user;

mod command;
#[cfg_attr(
    target_os = "macos",
    allow(dead_code, reason = "Seatbelt needs to know less than a mount namespace")
)]
mod confine;
mod follow;
mod fuse;
mod jobs;
mod kill;
mod launch;
mod leavings;
#[cfg_attr(
    not(target_os = "macos"),
    allow(dead_code, reason = "one part is for macOS alone, and tested everywhere")
)]
mod nesting;
mod relay;
mod run;
mod terminal;

mod sandbox;
mod weaknesses;

pub mod probe;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

pub use config::{Account, Config, Fuse, Isolation};
pub use confine::Abilities;
pub use error::Error;
pub use fuse::serve_trees;
pub use limits::Limits;
pub use sandbox::BuildUserSandbox;
pub use user::BuildUser;
