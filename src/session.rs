//! Opens what commands work on: the store with its cache, and what builds need besides.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use obuilder_core::bstr::BStr;
use obuilder_core::cache::ResultCache;
use obuilder_core::contracts::{Carry, Image};
use obuilder_core::error::FetchError;
use obuilder_core::interpreter::Builder;
use obuilder_core::{BuildLog, Cancel, Fetcher, Sandbox, Store};

use fetch_any::Images;
use fetch_dir::DirFetcher;
use fetch_oci::{Cache, OciFetcher};
use sandbox_macos::{BuildUserSandbox, Config, Fuse};
use store_rsync::{RsyncStore, WarmTrees};
use store_zfs::{Options, ZfsFetcher, ZfsStore};

use crate::blame::zfs_remedy;
use crate::error::{CommandError, Kind};
use crate::output;
use crate::settings::Settings;

/// How long whoever does not delete for its own sake waits at the end until all that was deleted has gone.
const A_MOMENT: Duration = Duration::from_secs(1);

/// Opens the store and its cache, and tells the user what that put in order.
pub(crate) fn cache(settings: &Settings) -> Result<Arc<ResultCache>, CommandError> {
    Ok(cache_and_images(settings)?.0)
}

fn cache_and_images(
    settings: &Settings,
) -> Result<(Arc<ResultCache>, Option<ZfsFetcher>), CommandError> {
    let (store, images) = open(settings, &for_a_moment())?;
    let (cache, opened) = ResultCache::open(store)?;
    opened.notes.iter().for_each(|text| output::note("note", text));
    Ok((cache, images))
}

/// Opens the store and its cache for deleting, on a full disk too.
pub(crate) fn cache_to_make_room(settings: &Settings) -> Result<Arc<ResultCache>, CommandError> {
    let store = open(settings, &Options { make_room: true, ..Options::default() })?.0;
    let (cache, opened) = ResultCache::open_to_make_room(store)?;
    opened.notes.iter().for_each(|text| output::note("note", text));
    Ok(cache)
}

/// Opens the store alone.
pub(crate) fn store(settings: &Settings) -> Result<Arc<dyn Store>, CommandError> {
    Ok(open(settings, &Options::default())?.0)
}

fn for_a_moment() -> Options {
    Options { patience: A_MOMENT, ..Options::default() }
}

/// Opens the store, and the base images that lie in it, if it can have any.
fn open(
    settings: &Settings,
    options: &Options,
) -> Result<(Arc<dyn Store>, Option<ZfsFetcher>), CommandError> {
    let Some(place) = settings.store()?.pool else {
        let store = rsync_store(settings)?.patience(options.patience);
        return Ok((Arc::new(store), None));
    };
    let store = ZfsStore::open(place, options)?;
    let images = ZfsFetcher::new(&store);
    Ok((Arc::new(store), Some(images)))
}

/// The base images in the pool of the store.
pub(crate) fn images_of_pool(settings: &Settings) -> Result<ZfsFetcher, CommandError> {
    let store = settings.store()?;
    open(settings, &for_a_moment())?.1.ok_or_else(|| {
        let text =
            format!("`{}` is no pool, so that no image can be put there", store.path.display());
        CommandError::usage(text).hint("images are put into the pool of a store `zfs:POOL`")
    })
}

fn rsync_store(settings: &Settings) -> Result<RsyncStore, CommandError> {
    let path = settings.store()?.path;
    // One for each step that may run, and one more for two builds in turns.
    let warm = WarmTrees { most: settings.users()?.len() + 1, ..WarmTrees::default() };
    let store = RsyncStore::open_with(&path, settings.rsync_mode()?, warm)?;
    Ok(store.fast_sync(settings.fast_sync()))
}

/// Makes the sandbox, for trees of `cache`.
pub(crate) fn sandbox(
    settings: &Settings,
    cache: &ResultCache,
) -> Result<Arc<dyn Sandbox>, CommandError> {
    Ok(Arc::new(sandbox_for(settings, Vec::new(), cache.store().carry())?))
}

/// The part of the home that prefixes show.
const SHOWN: &str = "local";

/// Makes the sandbox, as what it is. Steps do not see `secret` files, nor the store. (The caller's home, with keys
/// and the like, the sandbox hides by itself; the configuration file says nothing that steps may not know.)
pub(crate) fn build_user_sandbox(settings: &Settings) -> Result<BuildUserSandbox, CommandError> {
    sandbox_for(settings, Vec::new(), Carry::default())
}

fn sandbox_for(
    settings: &Settings,
    secret: Vec<PathBuf>,
    carry: Carry,
) -> Result<BuildUserSandbox, CommandError> {
    let mut hidden = secret;
    hidden.push(settings.store()?.path);
    if settings.users()?.len() > 1 && !nix::unistd::geteuid().is_root() {
        output::warn("only root runs several steps at once; `--slots` is without effect");
    }
    let (users, isolation, limits) = (settings.users()?, settings.isolation(), settings.limits());
    let fuse = settings.fuse().map(served_by_ourselves).transpose()?;
    let prefixes = settings.prefixes().into_iter().map(|prefix| (prefix, SHOWN.into())).collect();
    let home = settings.home();
    let config =
        Config { users, prefixes, hidden, isolation, limits, fuse, carry, ..Config::new(home) };
    Ok(BuildUserSandbox::new(config)?)
}

/// The mount at `mount`, served by this program.
fn served_by_ourselves(mount: PathBuf) -> Result<Fuse, CommandError> {
    let program = std::env::current_exe().map_err(|error| {
        CommandError::system("failed to find this program on disk").caused_by(&error)
    })?;
    Ok(Fuse { mount, server: vec![program.into(), "serve-trees".into()] })
}

/// Everything a build needs, in which steps do not see `secret` files; what a killed one has left running is ended.
pub(crate) fn builder(settings: &Settings, secret: Vec<PathBuf>) -> Result<Builder, CommandError> {
    let (cache, images) = cache_and_images(settings)?;
    let sandbox = sandbox_for(settings, secret, cache.store().carry())?;
    sandbox.recover()?;
    let fetcher = fetcher(settings, images)?;
    Ok(Builder { cache, sandbox: Arc::new(sandbox), fetcher })
}

/// What brings base images; those of `pool` come first.
fn fetcher(
    settings: &Settings,
    pool: Option<ZfsFetcher>,
) -> Result<Arc<dyn Fetcher>, CommandError> {
    let dirs = DirFetcher::new(settings.image_dirs());
    let oci = OciFetcher::new(settings.oci()?);
    Ok(Arc::new(Images { pool, dirs, oci, docker: settings.docker()? }))
}

/// Copies the image directory at `path`, with its environment, to `rootfs`.
pub(crate) fn import_directory(
    path: &Path,
    rootfs: &Path,
    cancel: &Cancel,
) -> Result<Image, CommandError> {
    let whole = path.canonicalize().ok();
    let parts = whole.as_ref().and_then(|path| Some((path.parent()?, path.file_name()?)));
    let Some((parent, name)) = parts else {
        return Err(CommandError::usage(format!("there is no directory `{}`", path.display())));
    };
    let log = tempfile::tempfile().map(BuildLog::from_file).map_err(|error| {
        CommandError::system("failed to make a temporary file").caused_by(&error)
    })?;
    let dirs = DirFetcher::new([parent.to_owned()]);
    dirs.fetch(BStr::new(name.as_bytes()), rootfs, &log, cancel).map_err(fetch_failed)
}

/// What a failure to bring an image means outside of a build.
pub(crate) fn fetch_failed(error: FetchError) -> CommandError {
    match &error {
        FetchError::Unknown { hint, .. } => {
            CommandError::from_error(Kind::Usage, &error).hint(hint.clone())
        }
        FetchError::Cancelled(_) => CommandError::from_error(Kind::Interrupted, &error),
        FetchError::Failed { .. } => {
            CommandError::from_error(Kind::System, &error).maybe_hint(zfs_remedy(&error))
        }
    }
}

/// The layers of images from registries.
pub(crate) fn layers(settings: &Settings) -> Cache {
    Cache::new(settings.layers())
}

/// Says where the store is and how trees get into it.
pub(crate) fn describe_store(settings: &Settings) -> Result<String, CommandError> {
    let url = settings.store()?;
    if let Some(place) = url.pool {
        let store = ZfsStore::open(place, &Options::default())?;
        return Ok(format!("{}, {}", store.location(), store.mode()));
    }
    let store = RsyncStore::open(&url.path, settings.rsync_mode()?)?;
    Ok(format!("{}, mode {}", store.location(), store.mode()))
}
