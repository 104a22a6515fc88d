//! `obuild base-image verify`

use std::process::ExitCode;

use obuilder_core::interpreter::{self, Context, Options};

use super::slot_places;
use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, OfSteps, Settings};
use crate::{logging, output, session, signals};

/// Check a base image: as a build user, with the checks that it had to pass when it was made
///
/// Checked are `brew --prefix`, each opam, the switch, `ocaml -version`, GNU patch and the copy of opam's repository; and that the image
/// names no place that only the build which made it has seen.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name
    name: String,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let (images, record) = super::find(settings, &args.name)?;
    let home = settings.home();
    if record.home != home {
        let (theirs, ours) = (record.home.display(), home.display());
        let text = format!(
            "`{}` is for builds whose home is `{theirs}`, and here it is `{ours}`",
            args.name
        );
        return Err(CommandError::usage(text)
            .hint("opam's files name the home: make the image anew, or give --home"));
    }
    let cancel = signals::cancel_on_signals(|text| output::note("note", text))?;
    let places = slot_places(settings)?;
    let found = base_image::scan(&images.path(&args.name), &places, &|| cancel.is_cancelled())?;
    if let Some(first) = found.first() {
        let (file, place) = (first.path.display(), &first.place);
        let text = format!("`{}` names a place of a build: `{file}` holds `{place}`", args.name);
        return Err(CommandError::system(text).hint(anew(&args.name)));
    }
    let builder = session::builder(settings, Vec::new())?;
    let spec = base_image::checks(&record.request, &args.name);
    let options = Options { no_cache: true, ..Options::default() };
    let view = settings.progress().view();
    logging::show_on(Some(view.clone()));
    let context = Context::new(std::env::temp_dir());
    let built = builder.build(&spec, &context, &options, &cancel, &*view).map_err(|error| {
        let hint = (error.kind() == interpreter::Kind::Step).then(|| anew(&args.name));
        CommandError::from(error).maybe_hint(hint)
    });
    logging::show_on(None);
    let shown = view.end(built.as_ref());
    built?;
    shown?;
    output::note("base image", format!("`{}` is as it should be", args.name));
    Ok(ExitCode::SUCCESS)
}

/// An image that is not as it should be cannot be mended; making it again finds it unchanged.
fn anew(name: &str) -> String {
    format!("remove it (`obuild base-image remove {name}`), then make it anew")
}
