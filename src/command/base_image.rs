//! `obuild base-image`

mod list;
mod make;
mod remove;
mod show;
mod verify;

use base_image::{Images, Record};

use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::Settings;

/// Make and look after the base images that builds of opam packages start from
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    HomebrewOpam(make::Args),
    List(list::Args),
    Show(show::Args),
    Verify(verify::Args),
    Remove(remove::Args),
}

pub(crate) fn run(args: Args, settings: &Settings) -> Done {
    match args.command {
        Command::HomebrewOpam(args) => make::run(&args, settings),
        Command::List(args) => list::run(&args, settings),
        Command::Show(args) => show::run(&args, settings),
        Command::Verify(args) => verify::run(&args, settings),
        Command::Remove(args) => remove::run(&args, settings),
    }
}

/// Where images are made: the first of the directories in which builds look for them.
fn workplace(settings: &Settings) -> Result<Images, CommandError> {
    let dir = settings.images().into_iter().next();
    dir.map(Images::new).ok_or_else(|| CommandError::usage("no directory of images is configured"))
}

/// The image `name`, from the first directory that has one of that name of ours.
fn find(settings: &Settings, name: &str) -> Result<(Images, Record), CommandError> {
    let mut missing = None;
    for dir in settings.images() {
        let images = Images::new(dir);
        match images.find(name) {
            Ok(record) => return Ok((images, record)),
            Err(error @ base_image::Error::Unknown { .. }) => missing = missing.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(missing
        .map_or_else(|| CommandError::usage("no directory of images is configured"), Into::into))
}

/// The places of this machine that an image must not name: builds on it find none of them.
fn slot_places(settings: &Settings) -> Result<Vec<std::path::PathBuf>, CommandError> {
    let beside = |path: std::path::PathBuf, suffix: &str| {
        let mut path = path.into_os_string();
        path.push(suffix);
        path.into()
    };
    let store = settings.store()?.path;
    let slots = [Some(settings.home()), settings.fuse()].into_iter().flatten();
    let slots = slots.map(|path| beside(path, ".slots/"));
    Ok(slots.chain(["result/", "result-tmp/"].map(|dir| store.join(dir))).collect())
}
