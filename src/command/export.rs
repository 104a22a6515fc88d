//! `obuild export`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fetch_oci::{Exporter, ImageName, Plan, Reference, Step};
use obuilder_core::ResultId;
use obuilder_core::cache::ResultCache;
use obuilder_core::cache::meta::Meta;
use obuilder_core::contracts::Snapshot;
use obuilder_core::interpreter::saved_env;

use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, Key, Set, Settings};
use crate::{output, session, signals};

/// Export a result as an image, with one layer for each step
///
/// The image has the environment, the working directory and the user of the result's step. The same result gives the same image.
/// Where it goes: oci:PATH[:TAG], an OCI layout; docker-archive:PATH[:NAME:TAG], what `docker load` reads;
/// HOST/NAME:TAG, a registry; tar:PATH, the tree alone, compressed if the name ends with gz; dir:PATH, a copy of the tree
/// with its environment beside it, which is what --images takes.
#[allow(rustdoc::broken_intra_doc_links, reason = "brackets are what may be left out")]
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The result's id, or the beginning of it
    id: String,

    /// Where the image goes
    #[arg(long, value_name = "TARGET")]
    to: String,

    /// Make one layer of everything
    #[arg(long)]
    squash: bool,

    /// Let everything in the image belong to these numbers, as 0:0
    #[arg(long, value_name = "UID:GID")]
    owner: Option<String>,

    #[command(flatten)]
    flags: Flags<Uses>,
}

/// The settings of an export.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] = &[
        Key::Store,
        Key::RsyncMode,
        Key::Layers,
        Key::PlainHttp,
        Key::CaFile,
        Key::DockerConfig,
        Key::Retries,
    ];
}

/// Where an image goes.
enum To {
    Layout(PathBuf, String),
    DockerArchive(PathBuf, Option<String>),
    Tar(PathBuf),
    Dir(PathBuf),
    Registry(Reference),
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let to = target(&args.to)?;
    let owner = args.owner.as_deref().map(owner).transpose()?;
    let cache = session::cache(settings)?;
    let id = cache.find(&args.id)?;
    let chain = chain(&cache, &id)?;
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    let step = |(snapshot, meta): &(Snapshot, Meta)| {
        let heading = meta.heading.clone();
        Step { tree: snapshot.rootfs(), heading }
    };
    let (last, meta) = chain.last().ok_or_else(|| gone(&id))?;
    let env = env(last, meta)?;
    let plan = Plan {
        steps: chain.iter().map(step).collect(),
        squash: args.squash,
        env,
        workdir: meta.surroundings.workdir.clone(),
        user: meta.surroundings.user.clone(),
        owner,
        cancel: &cancel,
    };
    let digest = send(&plan, to, settings)?;
    output::print(format!("exported {} to {}{digest}\n", id.short(), args.to))?;
    Ok(ExitCode::SUCCESS)
}

/// Exports; gives what is to be said of the digest.
fn send(plan: &Plan<'_>, to: To, settings: &Settings) -> Result<String, CommandError> {
    let exporter = Exporter { plan: plan.clone() };
    let digest = match to {
        To::Layout(path, tag) => exporter.to_layout(&path, &tag),
        To::DockerArchive(path, tag) => exporter.to_docker_archive(&path, tag.as_deref()),
        To::Registry(reference) => {
            let (access, layers) = (settings.access(), session::layers(settings));
            exporter.to_registry(&reference, &access, &layers, &|text| output::note("note", text))
        }
        To::Tar(path) => {
            exporter.to_tar(&path).map_err(failed)?;
            return Ok(String::new());
        }
        To::Dir(path) => {
            exporter.to_directory(&path).map_err(failed)?;
            return Ok(String::new());
        }
    };
    digest.map(|digest| format!(", {digest}")).map_err(failed)
}

fn failed(error: fetch_oci::Error) -> CommandError {
    let kind = match error {
        fetch_oci::Error::Cancelled => Kind::Interrupted,
        fetch_oci::Error::BadName { .. } => Kind::Usage,
        _ => Kind::System,
    };
    CommandError::from_error(kind, &error)
}

fn target(text: &str) -> Result<To, CommandError> {
    let path = |path: &str| match path {
        "" => Err(CommandError::usage(format!("`{text}` lacks the path"))),
        path => Ok(PathBuf::from(path)),
    };
    if let Some(rest) = text.strip_prefix("tar:") {
        return Ok(To::Tar(path(rest)?));
    }
    if let Some(rest) = text.strip_prefix("dir:") {
        return Ok(To::Dir(path(rest)?));
    }
    let name = ImageName::parse(text).map_err(|error| {
        CommandError::usage(error.to_string())
            .hint("name oci:PATH, docker-archive:PATH, tar:PATH, dir:PATH or HOST/NAME:TAG")
    })?;
    Ok(match name {
        ImageName::Layout { path, tag } => To::Layout(path, tag.unwrap_or("latest".to_owned())),
        ImageName::DockerArchive { path, tag } => To::DockerArchive(path, tag),
        // `/x/y` and `./x` are no names of a registry; `x` is one of Docker's, which nobody means to push to by chance.
        ImageName::Registry(_) if !text.contains('/') => {
            return Err(CommandError::usage(format!("`{text}` does not say where the image goes"))
                .hint("name a registry, as HOST/NAME:TAG, or a file, as oci:PATH"));
        }
        ImageName::Registry(reference) => To::Registry(reference),
    })
}

fn owner(text: &str) -> Result<(u32, u32), CommandError> {
    let numbers =
        text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    numbers.ok_or_else(|| CommandError::usage(format!("`{text}` is no owner of the form UID:GID")))
}

/// The result and what it stands on, the base first, all pinned.
fn chain(cache: &ResultCache, id: &ResultId) -> Result<Vec<(Snapshot, Meta)>, CommandError> {
    let mut chain = Vec::new();
    let mut next = Some(id.clone());
    while let Some(id) = next {
        let snapshot = cache.store().result(&id)?.ok_or_else(|| gone(&id))?;
        let meta = Meta::read(snapshot.dir()).unwrap_or_default();
        let known = cache.entry(&id)?;
        next = meta.parent.clone().or_else(|| known?.parent);
        chain.push((snapshot, meta));
    }
    chain.reverse();
    Ok(chain)
}

fn gone(id: &ResultId) -> CommandError {
    CommandError::usage(format!(
        "there is no result `{}`, only what is left of a failed step",
        id.short()
    ))
}

/// The environment of those who build on it.
fn env(result: &Snapshot, meta: &Meta) -> Result<Vec<(String, String)>, CommandError> {
    if meta.parent.is_some() {
        return Ok(meta.surroundings.env.clone());
    }
    let env = saved_env(result).map_err(|error| {
        let message = format!("failed to read `{}`", Path::new(&result.env()).display());
        CommandError::system(message).caused_by(&error)
    })?;
    Ok(env.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
}
