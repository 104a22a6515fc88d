//! Finds and reads the spec and its context.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use obuilder_core::spec::Spec;

use crate::error::CommandError;

/// Name of the spec when none is given.
pub(crate) const USUAL: &str = "obuild.scm";

/// Which spec, and where its files are.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// The spec; `-` for standard input, `obuild.scm` when not given
    #[arg(value_name = "SPEC")]
    first: Option<PathBuf>,

    /// The directory that `copy` takes files from; the spec's own when not given
    #[arg(value_name = "CONTEXT")]
    second: Option<PathBuf>,

    /// The spec, as OBuilder takes it; the only other argument is then the context
    #[arg(short, long = "file", value_name = "SPEC")]
    file: Option<PathBuf>,
}

impl Source {
    /// Reads the spec and checks the context.
    pub(crate) fn load(&self) -> Result<(Spec, PathBuf), CommandError> {
        let (file, context) = match (&self.file, &self.first, &self.second) {
            (Some(_), _, Some(extra)) => {
                let text = format!("`{}` is one argument too many after -f", extra.display());
                return Err(CommandError::usage(text).hint("write `obuild build -f SPEC CONTEXT`"));
            }
            (Some(file), context, None) => (file.clone(), context),
            (None, Some(file), context) => (file.clone(), context),
            (None, None, context) => (PathBuf::from(USUAL), context),
        };
        let context = context.clone().unwrap_or_else(|| directory_of(&file));
        let spec = read(&file)?;
        if !context.is_dir() {
            let what = if context.exists() { "is no directory" } else { "does not exist" };
            let text = format!("the context `{}` {what}", context.display());
            return Err(CommandError::usage(text)
                .hint("the context is the directory that `copy` takes files from"));
        }
        Ok((spec, context))
    }
}

fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if file != Path::new("-") && parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads the spec in `file`, `-` for standard input.
pub(crate) fn read(file: &Path) -> Result<Spec, CommandError> {
    let (name, source) = if file == Path::new("-") {
        let mut source = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut source);
        ("<stdin>".to_owned(), read.map(|_| source))
    } else {
        (file.display().to_string(), std::fs::read(file))
    };
    let source = source.map_err(|error| unreadable(file, &error))?;
    Spec::parse(&source).map_err(|error| {
        CommandError::usage(format!("{name}:{error}"))
            .excerpt(error.excerpt(&source))
            .maybe_hint(error.hint)
    })
}

fn unreadable(file: &Path, error: &io::Error) -> CommandError {
    let missing = error.kind() == io::ErrorKind::NotFound;
    if missing && file == Path::new(USUAL) {
        return CommandError::usage(format!("no spec is given, and there is no `{USUAL}` here"))
            .hint("write `obuild build SPEC`, such as `obuild build specs/hello.scm`");
    }
    let text = format!("failed to read the spec `{}`", file.display());
    let failed = CommandError::usage(text).caused_by(error);
    match file.is_dir() {
        true => failed.hint("name the spec first, then the context: `obuild build SPEC CONTEXT`"),
        false => failed,
    }
}
