//! One step in a slot: place its tree, run its command, kill what it leaves, put the tree back.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use bstr::{BStr, ByteSlice};
use nix::libc;
use obuilder_core::error::SandboxError;
use obuilder_core::step::{Outcome, Owner, Step};
use obuilder_core::{BuildLog, Cancel};

use crate::command::Actor;
use crate::config::{Config, Isolation};
use crate::confine::{Abilities, Confined};
use crate::error::{Error, Result};
use crate::follow::{Lines, Stop, drain, follow};
use crate::fuse::Shown;
use crate::home::{Home, Placed};
use crate::kill::Leash;
use crate::launch::{Launch, Running, Session, Stage};
use crate::limits::Bounds;
use crate::mounts::Wanted;
use crate::platform;
use crate::platform::cgroup::Group;
use crate::platform::confine::Confinement;
use crate::policy::Policy;
use crate::pool::Taken;
use crate::relay::Relay;
use crate::slot::{Placing, Slot};
use crate::terminal::Lent;

/// Said in the log of a step that should not reach the host's network, and does.
const OPEN_NETWORK: &str =
    "obuild: this step reaches the host's network: the system refuses it a network of its own\n";

/// Said in the log of a step that should see what its policy shows, and sees the system.
const OPEN_FILES: &str = "obuild: this step sees the store and may write wherever its user may: the system refuses it a view of its own\n";
/// Said in the log of a step whose limits hold for each of its processes alone.
const LOOSE: &str = "obuild: limits of memory and time hold for each process of this step: its control group cannot be made\n";

/// Where the command's output goes.
pub(crate) enum Screen<'a> {
    Log(&'a BuildLog),
    Terminal,
}

/// One step to run, and all that it takes.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a Config,
    pub(crate) step: &'a Step,
    pub(crate) screen: Screen<'a>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) waiting: &'a dyn Fn(&str),
    pub(crate) abilities: Abilities,
    pub(crate) slot: &'a Slot,
    /// Who runs it; `None` for the calling user.
    pub(crate) owner: Option<Owner>,
}

/// What a command is started with.
#[derive(Clone, Copy)]
struct Given<'a> {
    wanted: &'a Wanted<'a>,
    bounds: &'a Bounds,
}

impl Run<'_> {
    /// Runs the step in `tree`. What has been `taken` for it is busy from its start until nothing of it lives.
    pub(crate) fn in_tree(&self, tree: &Path, mut taken: Option<&mut Taken>) -> Result<Outcome> {
        let home = Home::acquire(self.slot, self.owner, self.cancel, self.waiting)?;
        // The paths have been checked; what is wrong with them now was wrong then.
        let wanted = Wanted::new(self.config, self.step).map_err(refused)?;
        let in_memory = self.has_world();
        let mut placed = home.place(tree, self.owner, &wanted, in_memory)?;
        let shown = self.config.fuse.as_ref().filter(|_| self.owner.is_some());
        let shown = shown.map(|fuse| Shown::new(fuse, self.config, self.slot)).transpose()?;
        let group = self.uid().map(|uid| Group::planned(&self.config.limits, uid));
        let group = group.unwrap_or_default();
        if let Some(taken) = taken.as_mut() {
            taken.set_busy(&group)?;
        }
        placed.start();
        let bounds = Bounds::make(self.config.limits, self.owner.is_some(), group);
        let outcome = self.run_placed(Given { wanted: &wanted, bounds: &bounds });
        drop(bounds);
        let checked = shown.as_ref().map_or(Ok(()), Shown::check);
        let outcome = outcome.and_then(|outcome| checked.map(|()| outcome));
        drop(shown);
        leave(placed, taken, outcome)
    }

    fn run_placed(&self, given: Given<'_>) -> Result<Outcome> {
        let null = File::open("/dev/null").map_err(Error::io("open `/dev/null`"))?;
        let Screen::Log(log) = self.screen else {
            return self.run_on_caller_terminal(given);
        };
        let (output, write) = crate::launch::pipe().map_err(Error::io("make a pipe"))?;
        let streams = [null.as_fd(), write.as_fd(), write.as_fd()];
        let started = self.start(given, Session::Own, streams)?;
        drop(write);
        let leash = match started {
            Ok(running) => Leash::new(running, self.uid())?,
            Err(error) => return not_executed(self.step, &error, log),
        };
        let log = &mut Lines::new(log, self.refuses_nesting());
        for line in self.openings(given.bounds) {
            log.tell(line).map_err(Error::io("write the build log"))?;
        }
        let mut output = File::from(output);
        let times = (self.step.timeout, given.bounds.clock());
        let stop = follow(&mut output, leash.exit(), log, self.cancel, times);
        let status = leash.end()?;
        let drained = drain(&mut output, log).and_then(|()| log.advise());
        drained.map_err(Error::io("write the build log"))?;
        let stop = stop.map_err(Error::io("follow the command's output"))?;
        if matches!(stop, Stop::Ended | Stop::Spent) {
            log.tell(&given.bounds.told(status)).map_err(Error::io("write the build log"))?;
        }
        Ok(match stop {
            Stop::Ended => outcome(status),
            Stop::Spent => Outcome::Signalled(libc::SIGXCPU),
            Stop::Cancelled => Outcome::Cancelled,
            Stop::TimedOut(limit) => Outcome::TimedOut(limit),
        })
    }

    fn run_on_caller_terminal(&self, given: Given<'_>) -> Result<Outcome> {
        if let Some(owner) = self.owner.filter(|_| io::stdin().is_terminal()) {
            return self.run_on_own_terminal(given, owner);
        }
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let lent = Lent::new();
        let session = if self.owner.is_some() { Session::Own } else { Session::Callers };
        let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let started = self.start(given, session, streams)?;
        let leash = Leash::new(started.map_err(self.not_started())?, self.uid())?;
        let waited = leash.wait_for_exit();
        let status = leash.end();
        drop(lent);
        status.and_then(|status| waited.map(|()| outcome(status)))
    }

    fn run_on_own_terminal(&self, given: Given<'_>, owner: Owner) -> Result<Outcome> {
        let made = Relay::new(owner);
        let (mut relay, terminal) = made.map_err(Error::io("make a terminal for the command"))?;
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let streams = [
            terminal.as_fd(),
            if stdout.is_terminal() { terminal.as_fd() } else { stdout.as_fd() },
            if stderr.is_terminal() { terminal.as_fd() } else { stderr.as_fd() },
        ];
        let started = self.start(given, Session::OwnTerminal, streams)?;
        drop(terminal);
        let leash = Leash::new(started.map_err(self.not_started())?, self.uid())?;
        let stop = relay.carry(leash.exit());
        let status = leash.end()?;
        relay.drain().map_err(Error::io("show the command's output"))?;
        match stop.map_err(Error::io("carry between two terminals"))? {
            Stop::Ended => Ok(outcome(status)),
            Stop::Cancelled | Stop::TimedOut(_) | Stop::Spent => Ok(Outcome::Cancelled),
        }
    }

    fn uid(&self) -> Option<u32> {
        self.owner.map(|owner| owner.uid)
    }

    fn not_started(&self) -> impl FnOnce(io::Error) -> Error {
        Error::io(format!("execute `{}`", program(self.step)))
    }

    /// Whether the step has a network of its own.
    fn isolates_network(&self) -> bool {
        self.owner.is_some() && self.step.network.is_empty() && self.abilities.network
    }

    /// Whether the step has a view of the filesystem of its own.
    fn has_world(&self) -> bool {
        let wanted = match self.slot.placing {
            Placing::Rename => self.config.isolation == Isolation::Full,
            Placing::World => true,
            // A view of its own would show the mount read-only.
            Placing::Fuse => false,
        };
        self.owner.is_some() && wanted && self.abilities.world
    }

    /// What a build user's step is to be kept from, and is not.
    fn openings(&self, bounds: &Bounds) -> Vec<&'static str> {
        let mut lines = Vec::new();
        let full = self.config.isolation == Isolation::Full;
        if self.owner.is_some() && self.step.network.is_empty() && !self.abilities.network {
            lines.push(OPEN_NETWORK);
        }
        if self.owner.is_some() && full && !self.abilities.policy {
            lines.push(OPEN_FILES);
        }
        if bounds.are_short() {
            lines.push(LOOSE);
        }
        lines
    }

    /// Whether the step cannot start a sandbox of its own.
    fn refuses_nesting(&self) -> bool {
        platform::confine::REFUSES_NESTING && self.owner.is_some() && self.abilities.policy
    }

    fn launch(&self, wanted: &Wanted<'_>, session: Session) -> Result<Launch> {
        // Every slot goes by the first one's name, so that no result tells which slot made it.
        let name = match (self.owner, self.config.users.first()) {
            (Some(_), Some(first)) => first.name.clone(),
            _ => calling_user(),
        };
        let policy = Policy::new(self.config, self.slot, self.step, self.owner);
        let fuse = self.slot.placing == Placing::Fuse;
        let confined = Confined {
            policy: (self.config.isolation == Isolation::Full).then_some(&policy),
            slot: self.slot,
            wanted,
            prefixes: if fuse { &[] } else { &self.config.prefixes },
            owner: self.owner,
            has_world: self.has_world(),
        };
        let confinement = Confinement::new(&confined).map_err(Error::io("confine the step"))?;
        let isolate_network = self.isolates_network();
        let actor = Actor { name: &name, owner: self.owner, isolate_network, session };
        Launch::new(self.config, self.slot, self.step, actor, confinement).map_err(refused)
    }

    /// Starts the command; the inner error is the one of a program that cannot be executed.
    fn start(
        &self,
        given: Given<'_>,
        session: Session,
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<io::Result<Running>> {
        let launch = self.launch(given.wanted, session)?;
        match launch.start(stdio, given.bounds).map_err(Error::io("start a process"))? {
            Err((Stage::Exec, error)) => Ok(Err(error)),
            Err((Stage::Workdir, error)) => {
                let action = format!("enter the working directory `{}`", self.step.workdir);
                Err(Error::io(action)(error))
            }
            Err((stage, error)) => Err(Error::io(stage.action())(error)),
            Ok(running) => Ok(Ok(running)),
        }
    }
}

/// Puts the tree back, unless somebody may still write to it; then the user's lock keeps saying so too.
fn leave(
    placed: Placed<'_>,
    taken: Option<&mut Taken>,
    outcome: Result<Outcome>,
) -> Result<Outcome> {
    if matches!(outcome, Err(Error::Survivors(_))) {
        placed.abandon();
        return outcome;
    }
    if let Some(taken) = &taken {
        taken.sweep();
    }
    let put_back = placed.put_back();
    if let Some(taken) = taken {
        taken.set_idle()?;
    }
    outcome.and_then(|outcome| put_back.map(|()| outcome))
}

/// A program that cannot be executed is a failing command, as in a shell.
fn not_executed(step: &Step, error: &io::Error, log: &BuildLog) -> Result<Outcome> {
    let line = format!("obuild: failed to execute `{}`: {error}\n", program(step));
    log.write(line.as_bytes()).map_err(Error::io("write the build log"))?;
    let missing = error.kind() == io::ErrorKind::NotFound;
    Ok(Outcome::Exited(if missing { 127 } else { 126 }))
}

fn program(step: &Step) -> &BStr {
    step.argv.first().map_or(BStr::new(""), |program| program.as_bstr())
}

fn outcome(status: c_int) -> Outcome {
    if libc::WIFSIGNALED(status) {
        Outcome::Signalled(libc::WTERMSIG(status))
    } else {
        Outcome::Exited(libc::WEXITSTATUS(status))
    }
}

fn refused(error: SandboxError) -> Error {
    Error::Io { action: "prepare the step".to_owned(), source: io::Error::other(error) }
}

/// The calling user's name, or number.
pub(crate) fn calling_user() -> String {
    let uid = nix::unistd::geteuid();
    let found = nix::unistd::User::from_uid(uid).ok().flatten();
    found.map_or_else(|| uid.to_string(), |user| user.name)
}
