//! `obuild dockerfile`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use obuilder_core::dockerfile::{self, Options};

use super::spec_file;
use crate::cli::Done;
use crate::error::CommandError;
use crate::output;

/// Print a spec as a Dockerfile
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The spec; `-` for standard input, `obuild.scm` when not given
    #[arg(value_name = "SPEC", conflicts_with = "file")]
    spec: Option<PathBuf>,

    /// The spec, as OBuilder takes it
    #[arg(short, long, value_name = "SPEC")]
    file: Option<PathBuf>,

    /// Use BuildKit's extensions, which know caches and secrets
    #[arg(long)]
    buildkit: bool,

    /// Which escape character the Dockerfile has
    #[arg(long, value_enum, default_value_t)]
    escape: Escape,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Escape {
    /// A backslash
    #[default]
    Unix,
    /// A backtick
    Windows,
}

pub(crate) fn run(args: &Args) -> Done {
    let file = args.file.as_deref().or(args.spec.as_deref());
    let file = file.unwrap_or(Path::new(spec_file::USUAL));
    let escape = match args.escape {
        Escape::Unix => dockerfile::Escape::Unix,
        Escape::Windows => dockerfile::Escape::Windows,
    };
    let options = Options { buildkit: args.buildkit, escape };
    let text = dockerfile::dockerfile(&spec_file::read(file)?, options)
        .map_err(|error| CommandError::from_error(crate::error::Kind::Usage, &error))?;
    output::write(&text)?;
    Ok(ExitCode::SUCCESS)
}
