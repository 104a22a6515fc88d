//! `obuild import`

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use base_image::Images;
use fetch_oci::{ImageName, OciFetcher};
use obuilder_core::BuildLog;
use obuilder_core::bstr::BStr;
use obuilder_core::contracts::Image;
use obuilder_core::{Cancel, Fetcher};

use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, Key, Set, Settings};
use crate::{output, session, signals};

/// Import an image as a directory of --images, for `(from NAME)`
///
/// Where it comes from: oci:PATH[:TAG], docker-archive:PATH[:NAME:TAG], HOST/NAME:TAG, tar:PATH (a tree, without an
/// environment) or dir:PATH. Its environment goes to NAME.env beside it. Builds that stand on an image that is replaced see
/// that it has changed.
#[allow(rustdoc::broken_intra_doc_links, reason = "brackets are what may be left out")]
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
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    Images::new(images).import(&args.name, |rootfs| {
        bring(&args.source, rootfs, settings, &cancel).map(|image| env_text(&image))
    })?;
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

/// The environment as `NAME.env` has it.
fn env_text(image: &Image) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in &image.env {
        if value.contains(&b'\n') || name.contains(&b'\n') {
            output::warn(format!("left out the variable `{name}`: its value has several lines"));
            continue;
        }
        text.extend_from_slice(&[name.as_slice(), b"=", value.as_slice(), b"\n"].concat());
    }
    text
}

fn wrong(verb: &str, path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::system(format!("failed to {verb} `{}`", path.display())).caused_by(error)
}
