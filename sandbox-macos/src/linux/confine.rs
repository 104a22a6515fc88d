//! How a step is confined here: in a world of mounts of its own where it is a build user's, by Landlock elsewhere, and by a
//! filter of system calls.

use std::ffi::c_int;
use std::io;

use bstr::BString;
use nix::libc;

use super::filter::Filter;
use super::ruleset;
use super::seal::Seal;
use super::world::World;
use crate::config::Isolation;
use crate::confine::{Abilities, Confined};

/// Tries what steps of build users are granted, in a child that comes to nothing. An error is one that will pass.
pub(crate) fn probe(wanted: Isolation) -> io::Result<Abilities> {
    let tries = || {
        let network = answer(super::child::isolate_network() == 0);
        let world = answer(World::is_granted());
        // SAFETY: ends this process.
        unsafe { libc::_exit(network | (world << 2)) }
    };
    // SAFETY: the child only makes system calls and never returns.
    let pid = unsafe { crate::launch::fork(tries) }?;
    let status = crate::launch::Running { pid, keeper: None }.reap()?;
    let answers = libc::WEXITSTATUS(status);
    if libc::WIFSIGNALED(status)
        || [answers, answers >> 2].iter().any(|answer| answer & PASSING != 0)
    {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let (network, world) = (answers & GRANTED != 0, (answers >> 2) & GRANTED != 0);
    Ok(Abilities { network, world, policy: world || of_callers(wanted).policy })
}

const GRANTED: c_int = 1;
const PASSING: c_int = 2;

/// What a child tells of a try whose errno is still there.
fn answer(granted: bool) -> c_int {
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL, libc::EOPNOTSUPP];
    match granted {
        true => GRANTED,
        false if refusals.contains(&crate::launch::errno()) => 0,
        false => PASSING,
    }
}

/// What steps of the calling user are granted, without root.
pub(crate) fn of_callers(wanted: Isolation) -> Abilities {
    let policy = wanted == Isolation::Full && ruleset::is_there();
    Abilities { network: false, world: false, policy }
}

/// What steps that are kept to their policy may do all the same, each completing "steps …".
pub(crate) fn gaps(abilities: Abilities) -> Vec<&'static str> {
    let mut gaps = if abilities.world { Vec::new() } else { ruleset::gaps() };
    if !Filter::is_there() {
        gaps.push("may leave setuid files: system calls cannot be filtered");
    }
    gaps
}

/// Steps may nest as many of these as they like.
pub(crate) const REFUSES_NESTING: bool = false;

/// What a child does to itself on its way to becoming the command.
#[derive(Debug)]
pub(crate) struct Confinement {
    world: Option<World>,
    seal: Option<Seal>,
}

impl Confinement {
    /// Makes everything ready. The step's directories are there by now.
    pub(crate) fn new(step: &Confined<'_>) -> io::Result<Self> {
        Ok(Self {
            world: step.has_world.then(|| World::new(step)).transpose()?,
            seal: step.policy.map(|policy| Seal::new(step, policy)).transpose()?,
        })
    }

    /// The command line that runs `argv` confined: here, itself.
    pub(crate) fn wrap(&self, argv: Vec<BString>) -> Vec<BString> {
        argv
    }

    /// As root, before becoming the build user. -1 and errno on failure.
    ///
    /// # Safety
    /// Only for a child between fork and exec, which has one thread.
    pub(crate) unsafe fn enter(&self) -> c_int {
        // SAFETY: the caller keeps to the same.
        self.world.as_ref().map_or(0, |world| unsafe { world.enter() })
    }

    /// As the step's user, right before becoming the command. -1 and errno on failure.
    pub(crate) fn seal(&self) -> c_int {
        self.seal.as_ref().map_or(0, Seal::set)
    }
}
