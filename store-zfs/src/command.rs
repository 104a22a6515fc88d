//! The seam to the command `zfs`: arguments as they are, tables for machines out, and errors that say what was run.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use obuilder_core::error::StoreError;
use obuilder_core::fault;

/// How often something that may be busy is tried, and how long after the first failure; each wait is twice the one before.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// Below this much room in the pool, what fails fails for want of it: ZFS keeps a little for itself.
const NO_ROOM: u64 = 256 << 10;

/// What `zfs` needs to be allowed by a user who is not root.
pub const PERMISSIONS: &str =
    "canmount,clone,create,destroy,mount,mountpoint,promote,readonly,rename,snapshot";

/// The command.
#[derive(Debug, Clone)]
pub(crate) struct Zfs {
    program: OsString,
    pool: String,
    /// Shared by its clones.
    ran: Arc<AtomicU64>,
}

/// A call of `zfs` that failed.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {how}{}", argv.join(" "), said(stderr))]
pub struct ZfsFailed {
    /// What was run.
    pub argv: Vec<String>,
    /// How it ended, or why it could not be started.
    pub how: String,
    /// What it said on standard error.
    pub stderr: String,
    /// What to do about it.
    pub remedy: String,
}

fn said(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl Zfs {
    /// The command `program`, for the pool (or the dataset) `pool`.
    pub(crate) fn new(program: &OsStr, pool: &str) -> Self {
        Self { program: program.to_owned(), pool: pool.to_owned(), ran: Arc::default() }
    }

    /// How often it has been run.
    pub(crate) fn ran(&self) -> u64 {
        self.ran.load(Ordering::Relaxed)
    }

    /// Runs it; gives what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, ZfsFailed> {
        match self.output(arguments) {
            Ok((out, None)) => Ok(out),
            Ok((_, Some(failed))) | Err(failed) => Err(failed),
        }
    }

    /// Runs it for an effect; `action` completes "failed to …".
    pub(crate) fn act(&self, action: &str, arguments: &[&str]) -> Result<(), StoreError> {
        self.run(arguments).map(drop).map_err(|failed| self.sorted(action, failed))
    }

    /// Runs it again while it fails and `worth` trying: what is busy now may not be in a moment.
    pub(crate) fn act_patiently(
        &self,
        action: &str,
        arguments: &[&str],
        worth: impl Fn() -> bool,
    ) -> Result<(), StoreError> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.run(arguments) {
                Ok(_) => return Ok(()),
                Err(failed) if !worth() => return Err(self.sorted(action, failed)),
                Err(failed) => tracing::debug!(error = %failed, "trying again"),
            }
            sleep(wait);
            wait *= 2;
        }
        self.act(action, arguments)
    }

    /// The rows of a table, each with its columns. Names that are not there are left out.
    pub(crate) fn table(&self, arguments: &[&str]) -> Result<Vec<Vec<String>>, StoreError> {
        let fixed = ["list", "-Hp"];
        let (out, failed) = self
            .output(&[&fixed, arguments].concat())
            .map_err(|failed| self.sorted("ask ZFS", failed))?;
        match failed {
            // It ends with 1 if any name is not there, and prints the others; with 2 if it was not understood.
            Some(failed) if out.is_empty() && !self.answers()? => {
                Err(self.sorted("ask ZFS", failed))
            }
            _ => Ok(out.lines().map(|row| row.split('\t').map(str::to_owned).collect()).collect()),
        }
    }

    /// Whether the filesystem or snapshot `name` is there.
    pub(crate) fn exists(&self, name: &str) -> Result<bool, StoreError> {
        Ok(!self.table(&["-t", "filesystem,snapshot", "-o", "name", name])?.is_empty())
    }

    /// Whether the pool itself can be listed.
    fn answers(&self) -> Result<bool, StoreError> {
        let asked = self.output(&["list", "-Hp", "-o", "name", &self.pool]);
        asked.map(|(_, failed)| failed.is_none()).map_err(|failed| self.sorted("ask ZFS", failed))
    }

    /// What it printed, and the failure it ended with, if it did.
    fn output(&self, arguments: &[&str]) -> Result<(String, Option<ZfsFailed>), ZfsFailed> {
        self.ran.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C");
        let output = command.output().map_err(|error| self.not_started(arguments, &error))?;
        fault::point("zfs-ran");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        tracing::debug!(?arguments, status = %output.status, "zfs");
        let failed = (!output.status.success()).then(|| {
            let how = format!("ended with {}", output.status);
            ZfsFailed { argv: self.argv(arguments), how, stderr, remedy: self.remedy() }
        });
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), failed))
    }

    fn argv(&self, arguments: &[&str]) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        [program].into_iter().chain(arguments.iter().map(|one| (*one).to_owned())).collect()
    }

    fn not_started(&self, arguments: &[&str], error: &io::Error) -> ZfsFailed {
        let remedy = match error.kind() {
            ErrorKind::NotFound => {
                "install OpenZFS and have `zfs` on the PATH, or choose another --store".to_owned()
            }
            _ => self.remedy(),
        };
        let how = format!("cannot be run: {error}");
        ZfsFailed { argv: self.argv(arguments), how, stderr: String::new(), remedy }
    }

    fn remedy(&self) -> String {
        let pool = &self.pool;
        if !rustix::process::geteuid().is_root() {
            return format!(
                "run obuild as root, or have root say `zfs allow -u USER {PERMISSIONS} {pool}`"
            );
        }
        let first = pool.split('/').next().unwrap_or(pool);
        format!(
            "`zpool status {first}` tells how the pool is, `zfs list -r -t all {pool}` what is in it"
        )
    }

    /// The store's error for `failed`. That the pool is full is seen from its room, not from what was said.
    fn sorted(&self, action: &str, failed: ZfsFailed) -> StoreError {
        let room = self.output(&["list", "-Hp", "-o", "available", &self.pool]);
        let room = room.ok().and_then(|(out, _)| out.trim().parse::<u64>().ok());
        if room.is_some_and(|room| room < NO_ROOM) {
            let source = io::Error::new(ErrorKind::StorageFull, failed);
            return StoreError::Full { action: action.to_owned(), source };
        }
        StoreError::Failed { action: action.to_owned(), source: failed.into() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::error::Error;

    use super::*;

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let zfs = Zfs::new("/bin/sh".as_ref(), "tank");
        let failed = zfs.run(&["-c", "echo cannot open >&2; exit 3"]).unwrap_err();
        let expected =
            "`/bin/sh -c echo cannot open >&2; exit 3` ended with exit status: 3: cannot open";
        assert_eq!(failed.to_string(), expected);
        assert!(failed.remedy.contains("tank"));
        assert_eq!(zfs.ran(), 1);
    }

    #[test]
    fn a_program_that_is_not_there_is_to_be_installed() {
        let zfs = Zfs::new("/nowhere/zfs".as_ref(), "tank");
        let error = zfs.act("make `tank/a`", &["create", "tank/a"]).unwrap_err();
        assert_eq!(error.to_string(), "failed to make `tank/a`");
        let cause = error.source().unwrap();
        assert!(cause.to_string().starts_with("`/nowhere/zfs create tank/a` cannot be run: "));
        assert!(cause.downcast_ref::<ZfsFailed>().unwrap().remedy.starts_with("install OpenZFS"));
    }
}
