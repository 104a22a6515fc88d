//! `obuild shell`

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use obuilder_core::ResultId;
use obuilder_core::bstr::{BString, ByteVec};
use obuilder_core::cache::ResultCache;
use obuilder_core::contracts::Base;
use obuilder_core::spec::User;
use obuilder_core::step::{Outcome, Step};

use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, OfSteps, Settings};
use crate::{output, session, weaknesses};

/// Open a shell in a throw-away copy of a result or of a kept failed tree
///
/// Nothing that is done there is kept. The exit code is the shell's; 128 and the number of the signal that ended it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    id: String,

    /// What to run instead of an interactive shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<std::ffi::OsString>,

    #[command(flatten)]
    flags: Flags<OfSteps>,
}

pub(crate) fn run(args: Args, settings: &Settings) -> Done {
    let cache = session::cache(settings)?;
    let sandbox = session::sandbox(settings, &cache)?;
    let id = cache.find(&args.id)?;
    let step = step(&cache, &id, args.command)?;
    sandbox.check(&step)?;
    if let Some(text) = weaknesses::sentence(&sandbox.capabilities()) {
        output::warn(text);
    }
    let pending = cache.store().begin(&throw_away(), base(&cache, &id)?)?;
    let outcome = sandbox.run_on_terminal(&step, &pending.dir().join("rootfs"), &|reason| {
        output::note("waiting", reason);
    });
    let discarded = pending.discard();
    let code = match outcome? {
        Outcome::Exited(status) => status,
        Outcome::Signalled(signal) => 128 + signal,
        Outcome::Cancelled | Outcome::TimedOut(_) => 130,
    };
    discarded?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// What `id` can be opened as.
fn base<'a>(cache: &ResultCache, id: &'a ResultId) -> Result<Base<'a>, CommandError> {
    if cache.store().result(id)?.is_some() {
        return Ok(Base::Result(id));
    }
    if cache.store().kept(id)?.is_some() {
        return Ok(Base::Kept(id));
    }
    let message = format!("the tree of the failed step `{}` was not kept", id.short());
    Err(CommandError::usage(message).hint("build it again with --keep-failed"))
}

/// An id that no step has.
fn throw_away() -> ResultId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ResultId::of(format!("shell {} {}", std::process::id(), now.as_nanos()).as_bytes())
}

/// The shell, in what the step of `id` ran in.
fn step(
    cache: &ResultCache,
    id: &ResultId,
    command: Vec<std::ffi::OsString>,
) -> Result<Step, CommandError> {
    let surroundings = cache.surroundings(id)?;
    let command: Vec<BString> = command
        .into_iter()
        .map(|word| Vec::from_os_string(word).unwrap_or_default().into())
        .collect();
    let shell = || ["/usr/bin/env", "bash"].map(BString::from).to_vec();
    let env = surroundings.env.into_iter().map(|(name, value)| (name.into(), value.into()));
    Ok(Step {
        argv: if command.is_empty() { shell() } else { command },
        workdir: surroundings.workdir.into(),
        env: env.collect(),
        user: User::ROOT,
        network: surroundings.network.into_iter().map(BString::from).collect(),
        caches: Vec::new(),
        secrets: Vec::new(),
        timeout: None,
    })
}
