//! Getting sources with the installed Git, from real repositories and servers on loopback.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests are here")]

mod basics;
mod bounds;
mod crashes;
mod fixture;
mod hostile;
mod isolation;
mod protocols;
mod server;
mod sharing;
mod submodules;
