//! `obuild fsck`

use std::io;
use std::path::Path;
use std::process::ExitCode;

use obuilder_core::cache::{CheckOptions, Checkup, Finding, Repair, ResultCache};

use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, OfStore, Settings};
use crate::{output, session};

/// Check the store: prove its index and what lies on the disk against each other
///
/// Nothing is changed unless --repair is given. Exit codes: 0 when everything is sound, 1 when something was found (and
/// perhaps repaired), 3 when the check could not be made.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Put right what can be: rows, counts, leftovers; delete results that are not whole, so that they are built again
    #[arg(long)]
    repair: bool,

    /// Read every byte: compare each result with the digest that the first such check has taken of it
    #[arg(long)]
    digest: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    flags: Flags<OfStore>,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    let store = session::store(settings)?;
    let digest = args.digest.then_some(&digest as &dyn Fn(&Path) -> io::Result<String>);
    let options = CheckOptions { repair: args.repair, digest };
    let checkup = ResultCache::check(&store, options).map_err(CommandError::from)?;
    match args.json {
        true => output::json(&checkup)?,
        false => output::print(text(&checkup))?,
    }
    Ok(ExitCode::from(u8::from(!checkup.findings.is_empty())))
}

fn digest(tree: &Path) -> io::Result<String> {
    tree_copy::digest_tree(tree, None).map_err(|error| {
        let (action, source) = error.into_parts();
        io::Error::new(source.kind(), format!("failed to {action}: {source}"))
    })
}

fn text(checkup: &Checkup) -> String {
    let mut text: String = checkup.findings.iter().map(line).collect();
    let (results, found) = (checkup.results, checkup.findings.len());
    if checkup.digested > 0 {
        text += &format!("took the digests of {} results\n", checkup.digested);
    }
    text + &match found {
        0 => format!("{results} results, all sound\n"),
        _ => format!("{results} results, {found} findings\n"),
    }
}

fn line(finding: &Finding) -> String {
    let about = finding.id.as_ref().map(|id| format!("{}: ", id.short())).unwrap_or_default();
    let repair = match &finding.repair {
        Repair::Would(how) => format!("--repair would {how}"),
        Repair::Done(how) => format!("repaired: {how}"),
        Repair::Failed(why) => format!("not repaired: {why}"),
    };
    format!("{about}{}; {repair}\n", finding.what)
}
