//! What a step may read and write where it has no world of its own: a Landlock ruleset.
//!
//! A ruleset allows, and what it allows holds for everything below. So the ways that lead to something hidden are not allowed
//! themselves, but everything beside them is: such a directory cannot be listed and nothing can be made in it, and what
//! comes to stand there later is hidden too. (See landlock(7).)
//!
//! Landlock does not see everything: a step may still change modes, owners and times as plain permissions let it, stat(2)
//! anything, and connect to Unix sockets that have a path. Inside, nothing can be mounted, not even by a user namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope,
};
use nix::libc;
use rustix::fs::{FileType, Mode, OFlags};

use super::world::outermost;
use crate::confine::Confined;
use crate::policy::Policy;

/// What we know the effects of.
const KNOWN: ABI = ABI::V7;
/// The first one of use: before it no file could be moved to another directory.
const FIRST: i64 = 2;
/// Devices that are there for everybody.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];
/// Processes set their own names, maps and scores here; what is the system's, or another user's, plain permissions keep.
const PROCESSES: &str = "/proc";

/// Whether the kernel has a Landlock that is of use.
pub(crate) fn is_there() -> bool {
    version() >= FIRST
}

/// What an older kernel lets steps do, as they are told of a step.
pub(crate) fn gaps() -> Vec<&'static str> {
    gaps_of(version())
}

fn gaps_of(version: i64) -> Vec<&'static str> {
    let mut gaps = Vec::new();
    if version < 3 {
        gaps.push("may empty files that their user may write, before Linux 6.2");
    }
    if version < 6 {
        gaps.push("may signal other processes of their user, before Linux 6.12");
    }
    gaps
}

/// The version of the kernel's interface; 0 or less for none.
fn version() -> i64 {
    const VERSION: u32 = 1;
    let nothing = ptr::null::<u8>();
    // SAFETY: with this flag and no attributes the call only tells the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) }
}

/// The ruleset of a step whose tree has been placed; what there is to see is looked at now.
pub(crate) fn of(step: &Confined<'_>, policy: &Policy) -> io::Result<Option<OwnedFd>> {
    let made = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create);
    let ruleset = made.map_err(io::Error::other)?;
    let mut grants = Grants { ruleset, hidden: outermost(policy.hidden.iter().cloned())? };
    let (read, all) = (AccessFs::from_read(KNOWN), AccessFs::from_all(KNOWN) & !AccessFs::IoctlDev);
    for path in &policy.readable {
        grants.named(path, read)?;
    }
    // Prefixes are where they are for everybody, and show nothing of the home.
    let shown = |path: &&PathBuf| !step.prefixes.iter().any(|(prefix, _)| prefix == *path);
    for path in policy.writable.iter().filter(shown) {
        grants.named(path, all)?;
    }
    for device in DEVICES {
        grants.named(Path::new(device), read | AccessFs::from_file(KNOWN))?;
    }
    grants.named(Path::new(PROCESSES), AccessFs::WriteFile | AccessFs::Truncate)?;
    Ok(grants.ruleset.into())
}

/// A ruleset in the making.
struct Grants {
    ruleset: RulesetCreated,
    /// Where this lies below something granted, it is spared.
    hidden: Vec<PathBuf>,
}

impl Grants {
    /// Grants `access` to what the policy names, if it is there, whatever it lies in.
    fn named(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        let Ok(path) = path.canonicalize() else { return Ok(()) };
        self.grant(&path, access)
    }

    fn grant(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        if self.leads_to_hidden(path) {
            return self.grant_all_in(path, access);
        }
        // What has gone meanwhile, or may not be entered, needs no rule.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::open(path, flags, Mode::empty()) else { return Ok(()) };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
        let access = match kind {
            // It leads to where it has a rule of its own, or none.
            FileType::Symlink => return Ok(()),
            FileType::Directory => access,
            _ => access & AccessFs::from_file(KNOWN),
        };
        let rule = PathBeneath::new(opened.as_fd(), access);
        (&mut self.ruleset).add_rule(rule).map(drop).map_err(io::Error::other)
    }

    fn grant_all_in(&mut self, dir: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        // What may not be listed may not be granted; what the policy names in it has a rule of its own.
        let Ok(entries) = dir.read_dir() else { return Ok(()) };
        for entry in entries.flatten() {
            let path = entry.path();
            if !self.hidden.contains(&path) {
                self.grant(&path, access)?;
            }
        }
        Ok(())
    }

    fn leads_to_hidden(&self, path: &Path) -> bool {
        self.hidden.iter().any(|hidden| hidden != path && hidden.starts_with(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_keep_less() {
        let counts = [2, 3, 5, 6, 7].map(|version| gaps_of(version).len());
        assert_eq!(counts, [2, 1, 1, 0, 0]);
    }
}
