//! `obuild base-image homebrew-opam`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base_image::{Context as Files, Images, Ocaml, Opam, Placed, Record, Request, Sources};
use obuilder_core::interpreter::{Builder, Context, Options};
use obuilder_core::spec::Spec;
use obuilder_core::{Cancel, ResultId};
use store_zfs::{Put, ZfsFetcher};

use super::{slot_places, workplace};
use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::settings::{Flags, Key, Set, Settings};
use crate::weaknesses::Telling;
use crate::{logging, output, session, signals};

/// Make a base image with Homebrew, several versions of opam, and a switch with a compiler
///
/// A spec is made for it and built step by step, so that only what has changed is done again. Its last step checks the image, as
/// a build user; only then does it replace the old one, and builds that run on the old one keep it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The compiler, such as `5.4.1`
    #[arg(long, value_name = "VERSION", required_unless_present = "all")]
    ocaml: Option<Ocaml>,

    /// Versions of opam, such as `2.1,2.5,dev`; all that have a source when not given
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    opam: Vec<Opam>,

    /// The opam that is called `opam`; the first of the others when not given
    #[arg(long, value_name = "VERSION")]
    default_opam: Option<Opam>,

    /// Name of the image; `macos-homebrew-ocaml-X.Y` when not given
    #[arg(long = "to", value_name = "NAME")]
    name: Option<String>,

    /// Give it the name of the default image too: `macos-homebrew` for `macos-homebrew-ocaml-5.4`
    #[arg(long)]
    default: bool,

    /// Put it into the store's pool too, as `POOL/base-image/NAME@snap`, where builds find it before the directory
    ///
    /// For stores `zfs:POOL`. Builds begin on a clone of it, which costs nothing, and OBuilder finds it too.
    #[arg(long)]
    into_pool: bool,

    /// Make all images of a table of versions, one after the other
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ocaml", "opam", "default_opam", "name", "default"])]
    all: Option<PathBuf>,

    /// Print the spec instead, and bring and build nothing
    #[arg(long)]
    print_spec: bool,

    #[command(flatten)]
    flags: Flags<Uses>,
}

/// The settings of making images.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] = &[
        Key::Sources,
        Key::Images,
        Key::Progress,
        Key::KeepFailed,
        Key::Timeout,
        Key::Store,
        Key::RsyncMode,
        Key::Fuse,
        Key::Home,
        Key::Prefixes,
        Key::Uid,
        Key::UserPrefix,
        Key::Slots,
        Key::Isolation,
        Key::MaxCpu,
        Key::MaxMemory,
        Key::MaxProcesses,
        Key::MaxFileSize,
    ];
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let sources = sources(settings)?;
    let requests = requests(args, settings, &sources)?;
    let specs = requests.iter().map(|request| base_image::spec(request, &sources));
    let specs = specs.collect::<Result<Vec<_>, _>>()?;
    if args.print_spec {
        output::print(specs.iter().map(base_image::to_text).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(CommandError::usage("base images are made by root alone")
            .hint("run it as root: steps must find Homebrew's prefix in their home; --print-spec shows what would be done"));
    }
    let pool = match args.into_pool {
        true => Some(session::images_of_pool(settings)?),
        false => None,
    };
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    let images = workplace(settings)?;
    let builder = session::builder(settings, Vec::new())?;
    let workshop = Workshop { settings, sources, images, pool, builder, cancel };
    workshop.make_all(&requests, &specs)
}

fn sources(settings: &Settings) -> Result<Sources, CommandError> {
    let path = settings.sources();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        CommandError::usage(format!("failed to read the sources of base images, `{}`", path.display()))
            .caused_by(&error)
            .hint("say there, or in a file named by --sources, where Homebrew, opam and its repository come from: docs/base-images.md")
    })?;
    Ok(Sources::read(&path, &text, &base_image::this_platform())?)
}

/// The images that are asked for, at least one.
fn requests(
    args: &Args,
    settings: &Settings,
    sources: &Sources,
) -> Result<Vec<Request>, CommandError> {
    let none = || CommandError::usage("`prefixes` is empty, and Homebrew needs one");
    let prefix = settings.prefixes().into_iter().next().ok_or_else(none)?;
    let known = sources.all_opam();
    if let Some(path) = &args.all {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!("failed to read the table of versions `{}`", path.display());
            CommandError::usage(text).caused_by(&error)
        })?;
        return Ok(base_image::read_fleet(path, &text, &known, &prefix)?);
    }
    let ocaml = args.ocaml.clone().expect("clap lets it be missing only beside --all");
    let opam = if args.opam.is_empty() { known } else { args.opam.clone() };
    let default_opam = args.default_opam.clone().or_else(|| opam.first().cloned());
    let default_opam = default_opam.ok_or_else(|| {
        let path = settings.sources();
        CommandError::usage(format!("`{}` has no source of opam for this platform", path.display()))
    })?;
    let name = args.name.clone().unwrap_or_else(|| base_image::usual_name(&ocaml));
    Ok(vec![Request { name, ocaml, opam, default_opam, prefix, default: args.default }])
}

/// Everything that images are made with.
struct Workshop<'a> {
    settings: &'a Settings,
    sources: Sources,
    images: Images,
    /// Where they are put too.
    pool: Option<ZfsFetcher>,
    builder: Builder,
    cancel: Cancel,
}

impl Workshop<'_> {
    /// Makes each image; one that fails does not keep the others from being made.
    fn make_all(&self, requests: &[Request], specs: &[Spec]) -> Done {
        let mut failures = Vec::new();
        for (request, spec) in requests.iter().zip(specs) {
            let made = self.make(request, spec);
            match made.and_then(|placed| self.put(&request.name).map(|()| placed)) {
                Ok(placed) => {
                    let path = self.images.path(&request.name);
                    let how = match placed {
                        Placed::New => "made",
                        Placed::Replaced => "replaced",
                        Placed::Unchanged => "unchanged",
                    };
                    output::note(
                        "base image",
                        format!("`{}` is {how}: {}", request.name, path.display()),
                    );
                }
                Err(error) if requests.len() == 1 || error.kind == Kind::Interrupted => {
                    return Err(error);
                }
                Err(error) => {
                    output::note("base image", format!("`{}` is not made", request.name));
                    error.report();
                    failures.push((request.name.as_str(), error.kind));
                }
            }
        }
        let Some((_, kind)) = failures.first() else { return Ok(ExitCode::SUCCESS) };
        let names: Vec<_> = failures.iter().map(|(name, _)| format!("`{name}`")).collect();
        let (failed, all) = (failures.len(), requests.len());
        let text = format!("{failed} of {all} base images were not made: {}", names.join(", "));
        Err(CommandError::new(*kind, text))
    }

    fn make(&self, request: &Request, spec: &Spec) -> Result<Placed, CommandError> {
        self.images.check_free(&request.name)?;
        if request.default {
            self.images.check_alias(&request.name)?;
        }
        let cancelled = || self.cancel.is_cancelled();
        let tell = |text: &str| output::note("sources", text);
        let files = Files::lay(&self.images, request, &self.sources, &tell, &cancelled)?;
        let id = self.build(spec, Context::new(files.path()))?;
        let record = Record {
            request: request.clone(),
            sources: self.sources_of(request)?,
            result: id.to_string(),
            home: self.settings.home(),
        };
        let result = self.builder.cache.store().result(&id)?;
        let gone = || CommandError::system(format!("the result `{}` is gone again", id.short()));
        let rootfs = result.as_ref().ok_or_else(gone)?.rootfs();
        let places = slot_places(self.settings)?;
        Ok(self.images.place(&rootfs, &record, &places, &cancelled)?)
    }

    /// Puts the image `name` into the pool too, if that is wanted.
    fn put(&self, name: &str) -> Result<(), CommandError> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let put = pool.put(name, &self.images.path(name), base_image::RECORD, &self.cancel);
        let how = match put.map_err(session::fetch_failed)? {
            Put::New => "put there",
            Put::Replaced => "replaced",
            Put::Unchanged => "unchanged",
        };
        output::note("base image", format!("`{name}` in the pool is {how}"));
        Ok(())
    }

    fn build(&self, spec: &Spec, context: Context) -> Result<ResultId, CommandError> {
        let view = self.settings.progress().view();
        let options = Options {
            keep_failed: self.settings.keep_failed(),
            timeout: self.settings.timeout(),
            ..Options::default()
        };
        logging::show_on(Some(view.clone()));
        let mut builder = self.builder.clone();
        builder.sandbox = Arc::new(Telling::new(builder.sandbox, view.clone()));
        let built = builder.build(spec, &context, &options, &self.cancel, &*view);
        logging::show_on(None);
        let built = built.map_err(CommandError::from);
        let shown = view.end(built.as_ref());
        let id = built?;
        shown.map(|()| id)
    }

    fn sources_of(
        &self,
        request: &Request,
    ) -> Result<Vec<(String, base_image::Source)>, CommandError> {
        let mut all = vec![("homebrew".to_owned(), self.sources.homebrew.source.clone())];
        for version in &request.opam {
            all.push((version.program(), self.sources.opam(version)?.clone()));
        }
        all.push(("repository".to_owned(), self.sources.repository.clone()));
        Ok(all)
    }
}
