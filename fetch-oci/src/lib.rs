//! OCI images: brought from layouts, archives and registries as base images, and made of results.
//!
//! [`OciFetcher`] and [`Exporter`] are where to start. An image is unpacked without trust in whoever made it: see [`Options`] for what is
//! bounded. Nothing here runs a container, and nothing reads the environment.

mod error;

mod digest;
mod manifest;
mod name;
mod platform;

mod layer;
mod tar_stream;
mod tree;
mod unpack;

mod files;
mod image;

mod cache;
mod registry;

mod export;

mod docker;
mod fetcher;

pub use cache::Cache;
pub use digest::Digest;
pub use docker::DockerFetcher;
pub use error::Error;
pub use export::{Exporter, Plan, Step};
pub use fetcher::{OciFetcher, Settings};
pub use image::Image;
pub use manifest::{Config, Descriptor, History, Manifest, RootFs, RunConfig};
pub use name::{ImageName, Reference, Target};
pub use platform::Platform;
pub use registry::{Access, Pull};
pub use unpack::{Options, Unpacked};
