//! Puts store, sandbox and fetcher together, as the command `obuild` does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use fetch_any::Images;
use fetch_dir::{DirFetcher, ImageDir};
use obuild_worker::metrics::{Metrics, set};
use obuild_worker::text::chain;
use obuilder_core::cache::ResultCache;
use obuilder_core::interpreter::Builder;
use sandbox_macos::{Account, BuildUserSandbox, Config, Fuse};
use store_rsync::{RsyncStore, WarmTrees};

use crate::Stop;
use crate::options::Options;
use crate::settings::Settings;

/// Everything that builds of specs need; `None` without a store.
pub(crate) fn builder(settings: &Settings, metrics: &Metrics) -> Result<Option<Builder>, Stop> {
    let Some(path) = store_path(&settings.options)? else {
        tracing::warn!("no store is named (--obuilder-store): jobs with specs will be refused");
        return Ok(None);
    };
    let mode = crate::values::mode(&settings.options)?;
    let options = &settings.options;
    let slots = options.slots.unwrap_or(1);
    // One for each step that may run, and one more for two jobs in turns.
    let warm = WarmTrees { most: slots as usize + 1, ..WarmTrees::default() };
    let store = RsyncStore::open_with(&path, mode, warm);
    let store = store.map_err(|error| Stop::system(chain(&error)))?;
    let store = Arc::new(store.fast_sync(options.steps.fast_sync));
    let counted = store.clone();
    metrics.count_warm_trees(move || counted.warm_trees());
    set(&metrics.slots, u64::from(slots));
    let (cache, opened) = ResultCache::open(store).map_err(|error| Stop::system(chain(&error)))?;
    opened.notes.iter().for_each(|text| tracing::info!("{text}"));
    let sandbox = sandbox(settings, &path)?;
    sandbox.recover().map_err(|error| Stop::system(chain(&error)))?;
    let dirs = DirFetcher::new(image_dirs(&settings.options, &path).into_iter().map(image_dir));
    let (oci, docker) = (options.steps.oci(&settings.state_dir)?, options.steps.docker()?);
    let fetcher = Arc::new(Images { dirs, oci, docker });
    Ok(Some(Builder { cache, sandbox: Arc::new(sandbox), fetcher }))
}

/// The directory of the store, if one is named.
pub(crate) fn store_path(options: &Options) -> Result<Option<PathBuf>, Stop> {
    let Some(url) = &options.obuilder_store else { return Ok(None) };
    let path = url.strip_prefix("rsync:").map(PathBuf::from).filter(|path| path.is_absolute());
    path.map(Some).ok_or_else(|| {
        Stop::usage(format!(
            "--obuilder-store: `{url}` is not a store that this version can use; write `rsync:/path`"
        ))
    })
}

/// The sandbox, in which steps see neither the store nor what is this worker's own.
fn sandbox(settings: &Settings, store: &Path) -> Result<BuildUserSandbox, Stop> {
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
    let config = Config { users, prefixes, hidden, isolation, limits, fuse, ..Config::new(home) };
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
