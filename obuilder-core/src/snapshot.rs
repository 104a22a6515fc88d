//! A finished result in a store, as others see it.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{StoreError, chain};
use crate::id::ResultId;

/// A finished result (or a kept failed tree), pinned while this lives.
pub struct Snapshot {
    id: ResultId,
    dir: PathBuf,
    pin: Pinned,
}

/// By what a result is pinned.
enum Pinned {
    /// It is shown as long as this lives.
    Shown { _by: Box<dyn Any + Send + Sync> },
    /// It is shown when this was called.
    On(Box<dyn Fn() -> Result<(), StoreError> + Send + Sync>),
}

impl Snapshot {
    /// For stores: a result at `dir`, pinned by whatever `pin` holds.
    pub fn new(id: ResultId, dir: PathBuf, pin: impl Any + Send + Sync) -> Self {
        Self { id, dir, pin: Pinned::Shown { _by: Box::new(pin) } }
    }

    /// For stores: a result that `show` has at `dir` from the first time on that it is called, and that it pins.
    pub fn shown_by(
        id: ResultId,
        dir: PathBuf,
        show: impl Fn() -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { id, dir, pin: Pinned::On(Box::new(show)) }
    }

    /// The result's id.
    pub fn id(&self) -> &ResultId {
        &self.id
    }

    /// Has it in its directory from now on, if it was only held. Whoever takes what is missing there for an answer asks for this
    /// first.
    pub fn show(&self) -> Result<(), StoreError> {
        match &self.pin {
            Pinned::Shown { .. } => Ok(()),
            Pinned::On(show) => show(),
        }
    }

    /// The directory that holds `rootfs`, `log` and `env`. If a held result cannot be shown, the program's own log says why, and
    /// nothing is there.
    pub fn dir(&self) -> &Path {
        if let Err(error) = self.show() {
            tracing::error!("failed to show the result {}: {}", self.id, chain(&error));
        }
        &self.dir
    }

    /// The tree. Never write to it.
    pub fn rootfs(&self) -> PathBuf {
        self.dir().join("rootfs")
    }

    /// What the step printed; may be missing in stores that others filled.
    pub fn log(&self) -> PathBuf {
        self.dir().join("log")
    }

    /// The image's environment, for a base image.
    pub fn env(&self) -> PathBuf {
        self.dir().join("env")
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} in {})", self.id, self.dir.display())
    }
}
