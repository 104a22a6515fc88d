//! `obuild setup`

use std::process::ExitCode;

use crate::cli::Done;
use crate::error::CommandError;
use crate::settings::{Flags, Key, Set, Settings};
use crate::{output, session};

/// Make the build users, or remove them
///
/// The first step that needs a build user makes it, too; this makes all of them beforehand, and says what stands in the way.
/// Only root can.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove the build users instead, when their steps have ended
    #[arg(long)]
    remove: bool,

    #[command(flatten)]
    flags: Flags<Uses>,
}

/// The settings of build users.
#[derive(Debug, Clone)]
struct Uses;

impl Set for Uses {
    const KEYS: &'static [Key] = &[
        Key::Slots,
        Key::Uid,
        Key::UserPrefix,
        Key::Fuse,
        Key::Home,
        Key::Prefixes,
        Key::Store,
        Key::RsyncMode,
    ];
}

pub(crate) fn run(args: &Args, settings: &Settings) -> Done {
    if !nix::unistd::geteuid().is_root() {
        let what = if args.remove { "removed" } else { "made" };
        return Err(CommandError::usage(format!("build users can be {what} by root alone"))
            .hint("run it as root; without root, steps run as you and need no build user"));
    }
    let sandbox = session::build_user_sandbox(settings)?;
    let lines: Vec<_> = if args.remove {
        let removed = sandbox.remove_users(&|what| output::note("waiting", what))?;
        removed.iter().map(|name| format!("removed build user `{name}`\n")).collect()
    } else {
        let made = sandbox.ensure_users()?;
        let line = |name: &str, uid| format!("build user `{name}` ({uid}) is there\n");
        made.iter().map(|user| line(&user.name, user.owner.uid)).collect()
    };
    match lines.is_empty() {
        true => output::print("there is no build user\n")?,
        false => output::print(lines.concat())?,
    }
    Ok(ExitCode::SUCCESS)
}
