//! Puts store, sandbox and fetcher together, as the command `obuild` does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use fetch_any::Images;
use fetch_dir::{DirFetcher, ImageDir};
use obuild_worker::metrics::{Metrics, set};
use obuilder_core::cache::ResultCache;
use obuilder_core::contracts::{Carry, Store};
use obuilder_core::error::chain;
use obuilder_core::interpreter::Builder;
use sandbox_macos::{Account, BuildUserSandbox, Config, Fuse};
use store_any::StoreUrl;
use store_rsync::{RsyncStore, WarmTrees};
use store_zfs::{ZfsFetcher, ZfsStore};

use crate::Stop;
use crate::options::Options;
use crate::settings::Settings;

/// Everything that builds of specs need; `None` without a store.
pub(crate) fn builder(settings: &Settings, metrics: &Metrics) -> Result<Option<Builder>, Stop> {
    let Some(url) = store_url(&settings.options)? else {
        tracing::warn!("no store is named (--obuilder-store): jobs with specs will be refused");
        return Ok(None);
    };
    let path = url.path.clone();
    let (store, pool) = store(settings, url, metrics)?;
    set(&metrics.slots, u64::from(settings.options.slots.unwrap_or(1)));
    let (cache, opened) = ResultCache::open(store).map_err(|error| Stop::system(chain(&error)))?;
    opened.notes.iter().for_each(|text| tracing::info!("{text}"));
    let sandbox = sandbox(settings, &path, cache.store().carry())?;
    sandbox.recover().map_err(|error| Stop::system(chain(&error)))?;
    let options = &settings.options;
    let dirs = DirFetcher::new(image_dirs(options, &path).into_iter().map(image_dir));
    let (oci, docker) = (options.steps.oci(&settings.state_dir)?, options.steps.docker()?);
    let fetcher = Arc::new(Images { pool, dirs, oci, docker });
    Ok(Some(Builder { cache, sandbox: Arc::new(sandbox), fetcher }))
}

/// The store, and the base images that lie in it, if it can have any.
fn store(
    settings: &Settings,
    url: StoreUrl,
    metrics: &Metrics,
) -> Result<(Arc<dyn Store>, Option<ZfsFetcher>), Stop> {
    let failed = |error| Stop::system(chain(&error));
    if let Some(place) = url.pool {
        let store = ZfsStore::open(place, &store_zfs::Options::default()).map_err(failed)?;
        let images = ZfsFetcher::new(&store);
        return Ok((Arc::new(store), Some(images)));
    }
    let options = &settings.options;
    // One for each step that may run, and one more for two jobs in turns.
    let most = options.slots.unwrap_or(1) as usize + 1;
    let warm = WarmTrees { most, ..WarmTrees::default() };
    let mode = crate::values::mode(options)?;
    let store = RsyncStore::open_with(&url.path, mode, warm).map_err(failed)?;
    let store = Arc::new(store.fast_sync(options.steps.fast_sync));
    let counted = store.clone();
    metrics.count_warm_trees(move || counted.warm_trees());
    Ok((store, None))
}

/// The store, if one is named.
pub(crate) fn store_url(options: &Options) -> Result<Option<StoreUrl>, Stop> {
    let url = options.obuilder_store.as_deref().map(StoreUrl::parse).transpose();
    url.map_err(|error| Stop::usage(format!("--obuilder-store: {error}")))
}

/// The sandbox, in which steps see neither the store nor what is this worker's own.
fn sandbox(settings: &Settings, store: &Path, carry: Carry) -> Result<BuildUserSandbox, Stop> {
    let options = &settings.options;
    let prefix = options.user_prefix.as_deref().unwrap_or("mac");
    let (first, slots) = (options.uid.unwrap_or(705), options.slots.unwrap_or(1));
    let isolation = crate::values::isolation(options)?;
    let home = match (&options.home, &options.fuse) {
        (Some(home), _) => home.clone(),
        (None, Some(mount)) => mount.join("users/builder"),
        (None, None) => store.join("home"),
    };
    let fuse = options.fuse.clone().map(served_by_ourselves).transpose()?;
    let hidden = [store, &settings.state_dir, &settings.cap].map(Path::to_owned).to_vec();
    let users = Account::several(prefix, first, slots as usize);
    let limits = options.steps.limits()?;
    let prefixes = prefixes(&options.prefixes);
    let config =
        Config { users, prefixes, hidden, isolation, limits, fuse, carry, ..Config::new(home) };
    BuildUserSandbox::new(config).map_err(|error| Stop::system(chain(&error)))
}

/// Where steps see the home's `local`: the `given` directories, or where Homebrew lives.
fn prefixes(given: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
    let apple_silicon = cfg!(all(target_os = "macos", target_arch = "aarch64"));
    let homebrew = [PathBuf::from(if apple_silicon { "/opt/homebrew" } else { "/usr/local" })];
    let shown = if given.is_empty() { &homebrew } else { given };
    shown.iter().map(|prefix| (prefix.clone(), "local".into())).collect()
}

fn served_by_ourselves(mount: PathBuf) -> Result<Fuse, Stop> {
    let program = std::env::current_exe()
        .map_err(|error| Stop::system(format!("failed to find this program on disk: {error}")))?;
    Ok(Fuse { mount, server: vec![program.into(), "serve-trees".into()] })
}

/// Where base images are looked for: beside the store, and on macOS where they are customary.
pub(crate) fn image_dirs(options: &Options, store: &Path) -> Vec<PathBuf> {
    if !options.images.is_empty() {
        return options.images.clone();
    }
    let beside = store.parent().unwrap_or(store).join("images");
    let homes = cfg!(target_os = "macos").then(|| PathBuf::from("/Users"));
    [beside].into_iter().chain(homes).collect()
}

/// In the place of people's homes only what is declared an image is one.
fn image_dir(path: PathBuf) -> ImageDir {
    ImageDir { declared_only: path == Path::new("/Users"), path }
}

/// The process behind `--fuse`.
pub(crate) fn serve_trees(scoreboard: &Path, shows: &[PathBuf]) -> Result<ExitCode, Stop> {
    let shows: Vec<_> = shows.chunks(2).map(|show| (show[0].clone(), show[1].clone())).collect();
    let served = sandbox_macos::serve_trees(scoreboard, &shows);
    served
        .map_err(|error| Stop::system(format!("the trees cannot be served: {}", chain(&error))))?;
    Ok(ExitCode::SUCCESS)
}
