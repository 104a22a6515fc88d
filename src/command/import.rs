//! `obuild import`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fetch_oci::{ImageName, OciFetcher};
use obuilder_core::BuildLog;
use obuilder_core::bstr::BStr;
use obuilder_core::contracts::Image;
use obuilder_core::{Cancel, Fetcher};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, Key, Set, Settings};
use crate::{output, session, signals};

/// Import an image as a directory of --images, for `(from NAME)`
///
/// Where it comes from: oci:PATH[:TAG], docker-archive:PATH[:NAME:TAG], HOST/NAME:TAG, tar:PATH (a tree, without an
/// environment) or dir:PATH. Its environment goes to NAME.env beside it. Builds that stand on an image that is replaced see
/// that it has changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the image comes from
    source: String,

    /// The name that specs know it by
    name: String,

    /// Replace the image of that name
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    flags: Flags<Uses>,
}

/// The settings of an import.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] = &[
        Key::Images,
        Key::Pull,
        Key::Platform,
        Key::Layers,
        Key::MaxImageSize,
        Key::ImageDevices,
        Key::PlainHttp,
        Key::CaFile,
        Key::DockerConfig,
        Key::Retries,
    ];
}

/// A directory that is removed, if it is still there: half of a new image, or an old one that was replaced.
struct HalfMade(PathBuf);

impl Drop for HalfMade {
    fn drop(&mut self) {
        if let Err(error) = tree_copy::remove_tree(&self.0) {
            tracing::warn!("`{}` is left behind: {error}", self.0.display());
        }
    }
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    if args.name.contains('/') || args.name.starts_with('.') || args.name.is_empty() {
        let message = format!("`{}` cannot be the name of an image", args.name);
        return Err(
            CommandError::usage(message).hint("it must have no slash and begin with no dot")
        );
    }
    let images = settings.images();
    let images =
        images.first().ok_or_else(|| CommandError::usage("no directory of images is set"))?;
    let target = images.join(&args.name);
    if !args.replace && target.symlink_metadata().is_ok() {
        let message = format!("there is an image `{}` already", args.name);
        return Err(CommandError::usage(message).hint("--replace replaces it"));
    }
    fs::create_dir_all(images).map_err(|e| wrong("create", images, &e))?;
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    let rootfs = images.join(format!(".{}-{}-new", args.name, std::process::id()));
    let new = HalfMade(rootfs.clone());
    let image = bring(&args.source, &rootfs, settings, &cancel)?;
    put(&new, &image, &target)?;
    output::print(format!("imported {} as {}\n", args.source, target.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Fills `rootfs` with the image.
fn bring(
    source: &str,
    rootfs: &Path,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<Image, CommandError> {
    let oci = OciFetcher::new(settings.oci()?);
    let failed = |error: fetch_oci::Error| match error {
        fetch_oci::Error::Cancelled => CommandError::from_error(Kind::Interrupted, &error),
        error => CommandError::from_error(Kind::System, &error),
    };
    if let Some(path) = source.strip_prefix("tar:") {
        return oci.import_tar(Path::new(path), rootfs, cancel).map_err(failed);
    }
    if let Some(path) = source.strip_prefix("dir:") {
        return session::import_directory(Path::new(path), rootfs, cancel);
    }
    ImageName::parse(source).map_err(|error| CommandError::usage(error.to_string()))?;
    let log = tempfile::tempfile().map(BuildLog::from_file).map_err(|error| {
        CommandError::system("failed to make a temporary file").caused_by(&error)
    })?;
    fs::create_dir(rootfs).map_err(|e| wrong("create", rootfs, &e))?;
    let brought = oci.fetch(BStr::new(source), rootfs, &log, cancel);
    log.finish();
    brought.map_err(session::fetch_failed)
}

/// Puts the image where it belongs, at once, with its environment.
fn put(new: &HalfMade, image: &Image, target: &Path) -> Result<(), CommandError> {
    let mut text = Vec::new();
    for (name, value) in &image.env {
        if value.contains(&b'\n') || name.contains(&b'\n') {
            output::warn(format!("left out the variable `{name}`: its value has several lines"));
            continue;
        }
        text.extend_from_slice(&[name.as_slice(), b"=", value.as_slice(), b"\n"].concat());
    }
    let mut env = target.as_os_str().to_owned();
    env.push(".env");
    let env = PathBuf::from(env);
    fs::write(&env, &text).map_err(|e| wrong("write", &env, &e))?;
    if target.symlink_metadata().is_err() {
        return fs::rename(&new.0, target).map_err(|e| wrong("write", target, &e));
    }
    // At no moment is there no image of that name; the old one is then where the new one was, and goes.
    let exchanged = renameat_with(CWD, &new.0, CWD, target, RenameFlags::EXCHANGE);
    exchanged.map_err(|e| wrong("replace", target, &e.into()))
}

fn wrong(verb: &str, path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::system(format!("failed to {verb} `{}`", path.display())).caused_by(error)
}
