//! The seam to the command `zfs`: arguments as they are, tables for machines out, and errors that say what was run.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use obuilder_core::error::StoreError;
use obuilder_core::fault;

use crate::lock::start_under_locks;
use crate::platform::ONLY_ROOT_MOUNTS;

/// How often something that may be busy is tried, and how long after the first failure; each wait is twice the one before. In all it is
/// waited for longer than `usrlocal-fs` holds what is in a tree that is shown no more.
const TRIES: u32 = 7;
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
    /// What it exited with, unless a signal ended it.
    pub status: Option<i32>,
    /// What it said on standard error.
    pub stderr: String,
    /// What to do about it.
    pub remedy: String,
}

/// What `zfs` exits with if a name is not there, among other things.
const NOT_THERE: i32 = 1;

/// A table, each row with its columns.
pub(crate) type Rows = Vec<Vec<String>>;

fn rows(out: &str) -> Rows {
    out.lines().map(|row| row.split('\t').map(str::to_owned).collect()).collect()
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

    /// The pool it is run for.
    pub(crate) fn pool(&self) -> &str {
        &self.pool
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

    /// Runs it once for each of the `calls`, all at the same time: what each has to wait for, such as the pool's next write, it waits
    /// for with the others. Says of each whether it succeeded.
    pub(crate) fn run_at_once(&self, calls: &[Vec<String>]) -> Vec<bool> {
        let calls = calls.iter().map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let started: Vec<_> = calls.map(|words| (self.start(&words), words)).collect();
        let ended = started.into_iter().map(|(child, words)| {
            let ended = child.and_then(|child| self.end(&words, child));
            matches!(ended, Ok((_, None)))
        });
        ended.collect()
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

    /// The rows of a table about `names`, each with its columns. Names that are not there are left out.
    pub(crate) fn table(&self, options: &[&str], names: &[&str]) -> Result<Rows, StoreError> {
        let words = [&["list", "-Hp"], options, names].concat();
        let ask = || self.output(&words).map_err(|failed| self.sorted("ask ZFS", failed));
        for _ in 1..TRIES {
            let (out, failed) = ask()?;
            let Some(failed) = failed else { return Ok(rows(&out)) };
            // Only then it was not stopped, and has understood.
            if failed.status != Some(NOT_THERE) {
                return Err(self.sorted("ask ZFS", failed));
            }
            // It prints the others. What it was in the middle of, it may have left half said.
            if names.len() > 1 && !options.contains(&"-r") && !out.is_empty() {
                return Ok(rows(&out));
            }
            if out.is_empty() && self.are_absent(names, failed)? {
                return Ok(Vec::new());
            }
        }
        match ask()? {
            (out, None) => Ok(rows(&out)),
            (_, Some(failed)) => Err(self.sorted("ask ZFS", failed)),
        }
    }

    /// Whether none of `names`, for which asking has `failed`, is there, while the pool itself is.
    fn are_absent(&self, names: &[&str], failed: ZfsFailed) -> Result<bool, StoreError> {
        let fixed = ["list", "-Hp", "-t", "filesystem,snapshot", "-o", "name", &self.pool];
        let (out, again) = self
            .output(&[&fixed[..], names].concat())
            .map_err(|failed| self.sorted("ask ZFS", failed))?;
        let status = again.and_then(|failed| failed.status);
        let there: Vec<_> = out.lines().collect();
        if !there.contains(&self.pool.as_str()) {
            return Err(self.sorted("ask ZFS", failed));
        }
        Ok(status == Some(NOT_THERE) && !names.iter().any(|name| there.contains(name)))
    }

    /// Whether the filesystem or snapshot `name` is there.
    pub(crate) fn exists(&self, name: &str) -> Result<bool, StoreError> {
        Ok(!self.table(&["-t", "filesystem,snapshot", "-o", "name"], &[name])?.is_empty())
    }

    /// What it printed, and the failure it ended with, if it did.
    fn output(&self, arguments: &[&str]) -> Result<(String, Option<ZfsFailed>), ZfsFailed> {
        self.end(arguments, self.start(arguments)?)
    }

    fn start(&self, arguments: &[&str]) -> Result<Child, ZfsFailed> {
        self.ran.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A key that interrupts this process would end it too, and what it has not said would be taken for not there.
        command.process_group(0);
        start_under_locks(&mut command).map_err(|error| self.not_started(arguments, &error))
    }

    fn end(
        &self,
        arguments: &[&str],
        child: Child,
    ) -> Result<(String, Option<ZfsFailed>), ZfsFailed> {
        let output = child.wait_with_output();
        let output = output.map_err(|error| self.not_started(arguments, &error))?;
        fault::point("zfs-ran");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        tracing::debug!(?arguments, status = %output.status, "zfs");
        let failed = (!output.status.success()).then(|| {
            let how = format!("ended with {}", output.status);
            let (argv, remedy) = (self.argv(arguments), self.remedy());
            ZfsFailed { argv, how, status: output.status.code(), stderr, remedy }
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
        let (argv, stderr) = (self.argv(arguments), String::new());
        ZfsFailed { argv, how, status: None, stderr, remedy }
    }

    fn remedy(&self) -> String {
        let pool = &self.pool;
        if !rustix::process::geteuid().is_root() {
            if ONLY_ROOT_MOUNTS {
                return "run obuild as root: on this system nobody else can mount".to_owned();
            }
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
        assert!(failed.remedy.contains("tank") || failed.remedy.contains("as root"));
        assert_eq!(zfs.ran(), 1);
    }

    /// Runs `script` in the place of `zfs`, which asks for `tank/a`.
    fn asked(script: &str) -> Result<Rows, StoreError> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("zfs");
        std::fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display()))
            .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        Zfs::new(program.as_os_str(), "tank").table(&["-r", "-o", "name"], &["tank/a"])
    }

    #[test]
    fn only_what_is_known_not_to_be_there_is_not_there() {
        let absent = "case \"$*\" in *'tank tank/a') echo tank;; esac; echo none >&2; exit 1";
        assert_eq!(asked(absent).unwrap(), Rows::new());
        assert!(asked("kill -KILL $$").is_err(), "a signal has ended it");
        assert!(asked("exit 2").is_err());
        assert!(asked("exit 1").is_err(), "the pool is not there either");
        assert!(asked("echo tank/a; exit 1").is_err(), "it was not said to the end");
        let there = "case \"$*\" in *'tank tank/a') echo tank; echo tank/a; exit 0;; esac";
        let late = format!("{there}; [ -e asked ] && echo tank/a && exit 0; touch asked; exit 1");
        assert_eq!(asked(&late).unwrap(), [["tank/a"]], "it is asked again");
        assert!(asked(&format!("{there}; exit 1")).is_err());
    }

    #[test]
    fn it_is_in_a_group_of_its_own() {
        let zfs = Zfs::new("/bin/sh".as_ref(), "tank");
        let group = zfs.run(&["-c", "ps -o pgid= -p $$"]).unwrap();
        let own = rustix::process::getpgrp().as_raw_nonzero().to_string();
        assert_ne!(group.trim(), own);
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
