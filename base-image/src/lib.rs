//! Base images for builds of opam packages: homes with Homebrew, several versions of opam, and an opam root with a compiler.
//!
//! [`Request`] says which image is wanted, [`Sources`] where its parts come from. [`spec`] turns both into a spec, whose steps any
//! builder of specs can run and cache; the files that it copies are laid out by [`Context`]. [`Images`] puts the result in place.
//!
//! Enter at [`spec`]: it reads as the list of what is in an image. The modules below stand in reading order; the first ones are
//! pure. Nothing here prints, reads the environment or runs a build.

#![forbid(unsafe_code)]

mod error;
mod fleet;
mod names;
mod profile;
mod request;
mod sources;
mod spec;
mod version;

mod context;
mod download;
mod images;
mod record;
mod scan;
mod scratch;

pub use context::Context;
pub use error::{Error, Result};
pub use fleet::read as read_fleet;
pub use images::{Images, Placed};
pub use names::{alias_of, check_name, usual_name};
pub use profile::profile;
pub use record::{RECORD, Record};
pub use request::Request;
pub use scan::{Finding, scan};
pub use sources::{Homebrew, PLATFORMS, Source, Sources, this_platform};
pub use spec::{checks, spec, to_text};
pub use version::{Ocaml, Opam};
