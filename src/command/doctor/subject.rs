//! What is looked at.

use std::path::{Path, PathBuf};

use crate::error::CommandError;
use crate::settings::Settings;

/// The machine as the settings use it.
pub(super) struct Subject<'a> {
    pub(super) settings: &'a Settings,
    /// The store's directory, which need not be there.
    pub(super) store: PathBuf,
    /// The canonical home.
    pub(super) home: PathBuf,
    /// Whether we are root.
    pub(super) root: bool,
}

impl<'a> Subject<'a> {
    pub(super) fn new(settings: &'a Settings) -> Result<Self, CommandError> {
        let store = settings.store()?.path;
        let root = nix::unistd::geteuid().is_root();
        Ok(Self { settings, store, home: settings.home(), root })
    }

    /// Whether the store is a pool, whose trees are mounted and not renamed.
    pub(super) fn is_pool(&self) -> bool {
        self.settings.store().is_ok_and(|url| url.pool.is_some())
    }

    /// The directory of the store, or the nearest one above it that is there: on the store's volume either way.
    pub(super) fn on_volume(&self) -> &Path {
        existing(&self.store)
    }
}

/// The nearest directory on the way to `path` that exists.
pub(super) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"))
}
