//! A stand-in sandbox for tests on Linux: runs a real shell in a tree that is a whole root filesystem.
//!
//! The step is chrooted in its tree, in mount, process and host name namespaces of its own. The host lends what the
//! tree lacks: `/usr`, `/etc` (and `/bin`, `/lib`…, where the host has them) are laid *under* the tree's own, so what a step
//! writes there (as root) lands in the tree and the host is never touched. Works as root and, through a user namespace, as anybody.
//!
//! Everything that was put into the tree for this is taken out again before [`Sandbox::run`] returns. The step's
//! command is a child of a shell, so death by signal N shows as exit status 128+N.

mod mounts;
mod slots;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use bstr::{BStr, ByteSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::mounts::Prepared;
use self::slots::Slots;
use crate::cancel::Cancel;
use crate::contracts::{Capabilities, Sandbox};
use crate::error::SandboxError;
use crate::log::BuildLog;
use crate::spec::User;
use crate::step::{Outcome, Owner, Step};

/// Arguments: triples KIND SOURCE TARGET for each mount, then `--`, then the command.
const SCRIPT: &str = r#"
set -e
hostname builder 2>/dev/null || :
while [ "$1" != -- ]; do
    case $1 in
        overlay) mount -t overlay -o "$2" overlay "$3" 2>/dev/null || mount --rbind -o ro "${2##*lowerdir=}" "$3" ;;
        proc) mount -t proc proc "$3" 2>/dev/null || mount --rbind /proc "$3" ;;
        *) mount $1 "$2" "$3" ;;
    esac
    shift 3
done
shift
set +e
"$@"
"#;

/// See the [module](self).
#[derive(Debug)]
pub struct ShellSandbox {
    root: bool,
    slots: Slots,
}

/// How many steps it runs at once unless told otherwise.
const SLOTS: usize = 3;

impl ShellSandbox {
    /// A sandbox for this process. [`SandboxError::Unsupported`] where namespaces cannot be had.
    pub fn new() -> Result<Self, SandboxError> {
        let root = nix::unistd::geteuid().is_root();
        let sandbox = Self { root, slots: Slots::new(SLOTS) };
        let mut probe = sandbox.unshare();
        probe.args(["--", "/bin/sh", "-c", "mount -t tmpfs tmpfs /mnt"]).stdin(Stdio::null());
        let output = probe.output().map_err(failed("run `unshare`"))?;
        if output.status.success() {
            return Ok(sandbox);
        }
        Err(SandboxError::Unsupported {
            what: format!("namespaces cannot be had: {}", output.stderr.trim().as_bstr()),
            hint: "run as root, or allow unprivileged user namespaces".to_owned(),
        })
    }

    /// The same with so many slots.
    pub fn with_slots(self, slots: usize) -> Self {
        Self { slots: Slots::new(slots), ..self }
    }

    /// The command that makes the namespaces.
    fn unshare(&self) -> Command {
        let mut command = Command::new("unshare");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["--mount", "--propagation", "private", "--uts"]);
        command.args(["--pid", "--fork", "--kill-child"]);
        if !self.root {
            command.args(["--user", "--map-root-user"]);
        }
        command
    }

    /// The whole command line for `step` in the prepared tree.
    fn command(&self, step: &Step, tree: &Path, prepared: &Prepared) -> Command {
        let (uid, gid) = ids(&step.user);
        let mut command = self.unshare();
        command.args(["--", "/bin/sh", "-c", SCRIPT, "sandbox"]).args(prepared.mounts()).arg("--");
        command.args(["unshare", "--root"]).arg(tree).arg("--wd").arg(os(step.workdir.as_bstr()));
        if self.root {
            command.args(["--setgid", &gid.to_string(), "--setuid", &uid.to_string()]);
        } else {
            command.args([format!("--map-user={uid}"), format!("--map-group={gid}")]);
        }
        command.args(["--", "/usr/bin/env", "-i"]).args(environment(step));
        command.args(step.argv.iter().map(|arg| os(arg.as_bstr())));
        command
    }

    fn prepare(&self, step: &Step, tree: &Path) -> Result<Prepared, SandboxError> {
        self.check(step)?;
        let (uid, gid) = ids(&step.user);
        let owner = self.root.then_some(Owner { uid, gid });
        Prepared::new(step, tree, owner).map_err(failed("prepare the tree"))
    }
}

impl Sandbox for ShellSandbox {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "shell in a chroot".to_owned(),
            slots: self.slots.count(),
            weaknesses: vec!["a stand-in for tests: steps reach the host's network".to_owned()],
        }
    }

    fn check(&self, step: &Step) -> Result<(), SandboxError> {
        if let User::Name(name) = &step.user {
            return Err(unsupported(format!("user `{name}` has no number")));
        }
        if let Some(network) = step.network.iter().find(|network| *network != "host") {
            return Err(unsupported(format!("there is no network `{network}`")));
        }
        let targets = step.caches.iter().map(|cache| &cache.target);
        for target in targets.chain(step.secrets.iter().map(|secret| &secret.target)) {
            if target.first() != Some(&b'/')
                || self.locate(target.as_bstr())?.as_os_str().is_empty()
            {
                return Err(unsupported(format!("`{target}` is no absolute path below `/`")));
            }
        }
        match step.secrets_of_one_name() {
            Some(name) => Err(unsupported(format!("two secrets are called `{name}`"))),
            None => Ok(()),
        }
    }

    fn locate(&self, path: &BStr) -> Result<PathBuf, SandboxError> {
        let mut relative = PathBuf::new();
        for part in path.split_str("/") {
            match part {
                b"" | b"." => {}
                // As in the kernel, the root's parent is the root.
                b".." => drop(relative.pop()),
                name => relative.push(os(name.as_bstr())),
            }
        }
        Ok(relative)
    }

    fn owner(&self, user: &User) -> Result<Option<Owner>, SandboxError> {
        if let User::Name(name) = user {
            return Err(unsupported(format!("user `{name}` has no number")));
        }
        let (uid, gid) = ids(user);
        Ok(self.root.then_some(Owner { uid, gid }))
    }

    fn run(
        &self,
        step: &Step,
        tree: &Path,
        log: &BuildLog,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        let Some(_slot) = self.slots.take(cancel, waiting) else { return Ok(Outcome::Cancelled) };
        let prepared = self.prepare(step, tree)?;
        let (output, write) = io::pipe().map_err(failed("make a pipe"))?;
        let mut command = self.command(step, tree, &prepared);
        let error = write.try_clone().map_err(failed("make a pipe"))?;
        command.stdin(Stdio::null()).stdout(write).stderr(error);
        let mut child = command.spawn().map_err(failed("run `unshare`"))?;
        // Our own copies of the pipe's other end, or its end is never met.
        drop(command);
        let stopped =
            follow(&mut child, File::from(std::os::fd::OwnedFd::from(output)), step, log, cancel);
        if !matches!(stopped, Ok(None)) {
            kill_all(&mut child);
        }
        let status = child.wait().map_err(failed("wait for the command"))?;
        let cleaned = prepared.restore().map_err(failed("clean the tree"));
        let stopped = stopped.map_err(failed("follow the command's output"))?;
        cleaned?;
        Ok(stopped.unwrap_or(outcome(status)))
    }

    fn run_on_terminal(
        &self,
        step: &Step,
        tree: &Path,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        let slot = self.slots.take(&Cancel::new(), waiting);
        let _slot = slot.expect("nobody cancels");
        let prepared = self.prepare(step, tree)?;
        let status =
            self.command(step, tree, &prepared).status().map_err(failed("run `unshare`"))?;
        prepared.restore().map_err(failed("clean the tree"))?;
        Ok(outcome(status))
    }
}

/// Copies output to the log until its end; says why it stopped before, if it did.
fn follow(
    child: &mut Child,
    mut output: File,
    step: &Step,
    log: &BuildLog,
    cancel: &Cancel,
) -> io::Result<Option<Outcome>> {
    let started = Instant::now();
    let cancelled = cancel.readable()?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        if cancel.is_cancelled() {
            return Ok(Some(Outcome::Cancelled));
        }
        let left = step.timeout.map(|limit| (limit, limit.saturating_sub(started.elapsed())));
        if let Some((limit, left)) = left
            && left.is_zero()
        {
            return Ok(Some(Outcome::TimedOut(limit)));
        }
        // A command that closed its output may live on: look at it now and then.
        let wait = left.map_or(100, |(_, left)| left.as_millis().clamp(1, 100)) as u16;
        let mut fds = [
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
            PollFd::new(cancelled.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::from(wait))?;
        if fds[0].any().unwrap_or(false) {
            match output.read(&mut buffer)? {
                0 if child.try_wait()?.is_some() => return Ok(None),
                0 => drop(cancel.wait_timeout(std::time::Duration::from_millis(1))),
                n => log.write(&buffer[..n])?,
            }
        }
    }
}

/// Kills the first process of the step's process namespace, and so all of them: when `child` has been waited for, none lives.
fn kill_all(child: &mut Child) {
    let pid = child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let first = children.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
    let killed = first.map(|first| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL)
    });
    if !matches!(killed, Some(Ok(()))) {
        // It has not forked yet, or ended by itself; `--kill-child` does the rest.
        if let Err(error) = child.kill() {
            tracing::warn!(%error, "failed to kill a step");
        }
    }
}

fn environment(step: &Step) -> Vec<OsString> {
    let mut seen = Vec::new();
    let mut assignments = Vec::new();
    for (name, value) in &step.env {
        if !seen.contains(&name) {
            seen.push(name);
            let mut assignment = os(name.as_bstr());
            assignment.push("=");
            assignment.push(os(value.as_bstr()));
            assignments.push(assignment);
        }
    }
    assignments
}

fn ids(user: &User) -> (u32, u32) {
    match user {
        User::Ids { uid, gid } => (*uid, *gid),
        User::Name(_) => (0, 0),
    }
}

fn outcome(status: ExitStatus) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, signal) => Outcome::Signalled(signal.unwrap_or_default()),
    }
}

fn os(text: &BStr) -> OsString {
    std::ffi::OsStr::from_bytes(text).to_owned()
}

fn unsupported(what: String) -> SandboxError {
    SandboxError::Unsupported { what, hint: "the stand-in sandbox cannot do this".to_owned() }
}

fn failed(action: &str) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Failed { action: action.to_owned(), source: Box::new(source) }
}

/// Writes a private file.
fn write_secret(path: &Path, value: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(value)
}

#[cfg(test)]
mod tests;
