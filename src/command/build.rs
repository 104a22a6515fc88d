//! `obuild build`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use obuilder_core::ResultId;
use obuilder_core::bstr::BString;
use obuilder_core::interpreter::{Context, Options};

use super::spec_file::Source;
use super::verbosity::Verbosity;
use crate::cli::Done;
use crate::error::CommandError;
use crate::progress::View;
use crate::settings::{Flags, Key, Set, Settings};
use crate::weaknesses::Telling;
use crate::{logging, output, session, signals};

/// Build a spec, taking from the cache what was built before
///
/// A spec is one S-expression: `((from scratch) (run (shell "echo hello")))`. Each `run` and `copy` makes a result
/// that is kept in the store under an id; what has a result already is not done again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,

    /// Give the spec this secret, read from a file; may be given several times
    #[arg(long = "secret", value_name = "ID:FILE")]
    secrets: Vec<String>,

    /// Show secrets where a step prints them, instead of `***`
    #[arg(long)]
    no_redact: bool,

    /// Build every step anew
    #[arg(long)]
    no_cache: bool,

    #[command(flatten)]
    flags: Flags<Uses>,

    #[command(flatten)]
    pub(crate) verbosity: Verbosity,

    #[command(flatten)]
    fuse: Fuse,
}

/// The settings of a build.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] = &[
        Key::Progress,
        Key::KeepFailed,
        Key::Timeout,
        Key::MaxCpu,
        Key::MaxMemory,
        Key::MaxProcesses,
        Key::MaxFileSize,
        Key::Store,
        Key::RsyncMode,
        Key::FastSync,
        Key::Images,
        Key::Fetcher,
        Key::Pull,
        Key::Platform,
        Key::Layers,
        Key::MaxImageSize,
        Key::ImageDevices,
        Key::PlainHttp,
        Key::CaFile,
        Key::DockerConfig,
        Key::Retries,
        Key::Fuse,
        Key::Home,
        Key::Prefixes,
        Key::Uid,
        Key::UserPrefix,
        Key::Slots,
        Key::Isolation,
    ];
}

/// What OBuilder takes for its FUSE filesystem.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Accepted for OBuilder's sake, without effect in this version")]
pub(crate) struct Fuse {
    /// Directory to show to users without a home
    #[arg(long, value_name = "DIR")]
    fallback: Option<PathBuf>,
    /// Where the filesystem is mounted
    #[arg(long, value_name = "DIR")]
    fuse_path: Option<PathBuf>,
    /// Directory that says which user sees which tree
    #[arg(long, value_name = "DIR")]
    scoreboard: Option<PathBuf>,
    /// Do without the filesystem
    #[arg(long)]
    no_fuse: bool,
    /// Homebrew's prefix
    #[arg(long, value_name = "DIR")]
    brew_path: Option<PathBuf>,
}

impl Fuse {
    /// Says in one line what has no effect.
    pub(crate) fn warn(&self) {
        let given = [
            (self.fallback.is_some(), "--fallback"),
            (self.fuse_path.is_some(), "--fuse-path"),
            (self.scoreboard.is_some(), "--scoreboard"),
            (self.no_fuse, "--no-fuse"),
            (self.brew_path.is_some(), "--brew-path"),
        ];
        let given: Vec<_> = given.iter().filter(|(yes, _)| *yes).map(|(_, name)| *name).collect();
        if !given.is_empty() {
            output::warn(format!("without effect in this version: {}", given.join(", ")));
        }
    }
}

pub(crate) fn run(args: Args, settings: &Settings) -> Done {
    args.verbosity.colour();
    args.fuse.warn();
    let view = settings.progress().view();
    logging::show_on(Some(view.clone()));
    let result = build(&args, settings, &view);
    logging::show_on(None);
    let shown = view.end(result.as_ref());
    result?;
    shown.map(|()| ExitCode::SUCCESS)
}

fn build(args: &Args, settings: &Settings, view: &Arc<dyn View>) -> Result<ResultId, CommandError> {
    let (spec, src_dir) = args.source.load()?;
    let mut context = Context::new(src_dir);
    context.secrets = secrets(&args.secrets)?;
    let options = Options {
        no_cache: args.no_cache,
        keep_failed: settings.keep_failed(),
        timeout: settings.timeout(),
        redact: !args.no_redact,
        log_cap: None,
    };
    let teller = view.clone();
    let cancel = signals::cancel_on_signals(move |text| teller.note(text))?;
    let mut builder = session::builder(settings, secret_files(&args.secrets))?;
    builder.sandbox = Arc::new(Telling::new(builder.sandbox, view.clone()));
    Ok(builder.build(&spec, &context, &options, &cancel, &**view)?)
}

/// The files of `ID:FILE` arguments, so far as they stand on disk: steps may read a secret only where it is given to them.
fn secret_files(given: &[String]) -> Vec<PathBuf> {
    let files =
        given.iter().filter_map(|text| Path::new(text.split_once(':')?.1).canonicalize().ok());
    // What a shell or a supervisor passes as `/dev/fd/N` is not to be found under a name.
    let on_disk = |path: &PathBuf| {
        path.is_file() && !["/proc", "/dev", "/sys"].iter().any(|dir| path.starts_with(dir))
    };
    files.filter(on_disk).collect()
}

/// Reads the files of `ID:FILE` arguments.
pub(crate) fn secrets(given: &[String]) -> Result<Vec<(BString, BString)>, CommandError> {
    let mut all: Vec<(BString, BString)> = Vec::new();
    for text in given {
        let (id, file) = text
            .split_once(':')
            .filter(|(id, file)| !id.is_empty() && !file.is_empty())
            .ok_or_else(|| {
                CommandError::usage(format!("`{text}` is not a secret of the form ID:FILE"))
                    .hint("write `--secret token:./token.txt`")
            })?;
        if all.iter().any(|(other, _)| other == id) {
            return Err(CommandError::usage(format!("the secret `{id}` is given twice")));
        }
        let value = std::fs::read(Path::new(file)).map_err(|error| {
            let text = format!("failed to read the secret `{id}` from `{file}`");
            CommandError::usage(text).caused_by(&error).hint(format!(
                "write the secret to that file, or name its file: `--secret {id}:FILE`"
            ))
        })?;
        all.push((id.into(), value.into()));
    }
    Ok(all)
}
