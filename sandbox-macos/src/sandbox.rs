//! The sandbox: one step at a time, as the build user, in the canonical home.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use bstr::{BStr, ByteSlice};
use nix::libc;
use obuilder_core::contracts::Capabilities;
use obuilder_core::error::SandboxError;
use obuilder_core::spec::User;
use obuilder_core::step::{Outcome, Owner, Step};
use obuilder_core::{BuildLog, Cancel, Sandbox};

use crate::command::Actor;
use crate::config::Config;
use crate::error::{Error, Result, during};
use crate::follow::{Stop, drain, follow};
use crate::home::{Home, Placed};
use crate::kill::{Leash, everything_of};
use crate::launch::{Launch, Running, Session, Stage};
use crate::lock::Lock;
use crate::mounts::Wanted;
use crate::platform;
use crate::relay::Relay;
use crate::terminal::Lent;
use crate::user::{BuildUser, closed_ancestor};

/// Text of the user's lock while a step may run.
const BUSY: &str = "a step runs";

/// A build user as a sandbox; see the [crate].
///
/// Numeric users of a spec, whatever their number, all mean the build user: specs in the field say uid 1000 for
/// "not root", and this sandbox has one user. A user by name cannot be had.
pub struct BuildUserSandbox {
    config: Config,
    root: bool,
    user: Mutex<Option<BuildUser>>,
    /// Whether the first attempt to leave the host's network succeeded.
    network: OnceLock<bool>,
}

/// Said in the log of a step that should not reach the host's network, and does.
const OPEN_NETWORK: &str =
    "obuild: this step reaches the host's network: the system refuses it a network of its own\n";

/// Where the command's output goes.
enum Screen<'a> {
    Log(&'a BuildLog, &'a Cancel),
    Terminal,
}

impl BuildUserSandbox {
    /// A sandbox with these settings. Touches nothing yet: the build user is made by the first step that needs it.
    pub fn new(config: Config) -> std::result::Result<Self, SandboxError> {
        if !config.home.is_absolute() || config.home.parent().is_none() {
            return Err(SandboxError::Unsupported {
                what: format!("the home `{}` is no absolute path below `/`", config.home.display()),
                hint: "give an absolute path with `--home`".to_owned(),
            });
        }
        let root = nix::unistd::geteuid().is_root();
        Ok(Self { config, root, user: Mutex::default(), network: OnceLock::new() })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The build user, made if it is missing; `None` if steps run as the calling user.
    ///
    /// Waits for the user's lock, as a step would.
    pub fn ensure_user(&self) -> std::result::Result<Option<BuildUser>, SandboxError> {
        let lock = self.lock_user(&Cancel::new(), &|_| {});
        lock.map(|held| held.map(|(_, user)| user)).map_err(during("make the build user"))
    }

    /// Takes the user for ourselves, with nothing of it running.
    fn lock_user(
        &self,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Option<(Lock, BuildUser)>> {
        if !self.root {
            return Ok(None);
        }
        let Config { user_name: name, home, .. } = &self.config;
        let tell = || waiting(&format!("build user `{name}` runs another step"));
        let mut lock = crate::user::lock(&self.config, cancel, tell)?;
        if lock.is_fresh() {
            // Until everything has been killed, the next one must try too.
            lock.set_text(BUSY)?;
        }
        let user = self.known_user()?;
        if !lock.text().is_empty() {
            everything_of(user.owner.uid)?;
            lock.set_text("")?;
        }
        match closed_ancestor(home, user.owner) {
            None => Ok(Some((lock, user))),
            Some(dir) => Err(Error::Unreachable { user: name.clone(), home: home.clone(), dir }),
        }
    }

    fn known_user(&self) -> Result<BuildUser> {
        let mut known = self.user.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = Some(BuildUser::ensure(&self.config)?);
        }
        Ok(known.clone().expect("it has just been set"))
    }

    fn run_on(
        &self,
        step: &Step,
        tree: &Path,
        screen: &Screen<'_>,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome> {
        let never = Cancel::new();
        let cancel = if let Screen::Log(_, cancel) = screen { cancel } else { &never };
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut held = self.lock_user(cancel, waiting)?;
        let owner = held.as_ref().map(|(_, user)| user.owner);
        let home = Home::acquire(&self.config, owner, cancel, waiting)?;
        // The paths have been checked; what is wrong with them now was wrong then.
        let wanted = Wanted::new(&self.config, step).map_err(refused)?;
        let mut placed = home.place(tree, owner, &wanted)?;
        if let Some((lock, _)) = &mut held {
            lock.set_text(BUSY)?;
        }
        placed.start();
        let outcome = self.run_placed(step, owner, screen);
        self.leave(placed, held, outcome)
    }

    /// Puts the tree back, unless somebody may still write to it; then the user's lock keeps saying so too.
    fn leave(
        &self,
        placed: Placed<'_>,
        mut held: Option<(Lock, BuildUser)>,
        outcome: Result<Outcome>,
    ) -> Result<Outcome> {
        if matches!(outcome, Err(Error::Survivors(_))) {
            placed.abandon();
            return outcome;
        }
        let put_back = placed.put_back();
        if let Some((lock, _)) = &mut held {
            lock.set_text("")?;
        }
        outcome.and_then(|outcome| put_back.map(|()| outcome))
    }

    fn run_placed(
        &self,
        step: &Step,
        owner: Option<Owner>,
        screen: &Screen<'_>,
    ) -> Result<Outcome> {
        let null = File::open("/dev/null").map_err(Error::io("open `/dev/null`"))?;
        let Screen::Log(log, cancel) = screen else {
            return self.run_on_caller_terminal(step, owner);
        };
        let (output, write) = crate::launch::pipe().map_err(Error::io("make a pipe"))?;
        let started =
            self.start(step, owner, Session::Own, [null.as_fd(), write.as_fd(), write.as_fd()])?;
        drop(write);
        let leash = match started {
            Ok(running) => Leash::new(running, owner.map(|owner| owner.uid))?,
            Err(error) => return not_executed(step, &error, log),
        };
        if self.is_refused_a_network(step, owner) {
            log.write(OPEN_NETWORK.as_bytes()).map_err(Error::io("write the build log"))?;
        }
        let mut output = File::from(output);
        let stop = follow(&mut output, leash.exit(), log, cancel, step.timeout);
        let status = leash.end()?;
        drain(&mut output, log).map_err(Error::io("write the build log"))?;
        Ok(match stop.map_err(Error::io("follow the command's output"))? {
            Stop::Ended => outcome(status),
            Stop::Cancelled => Outcome::Cancelled,
            Stop::TimedOut(limit) => Outcome::TimedOut(limit),
        })
    }

    fn run_on_caller_terminal(&self, step: &Step, owner: Option<Owner>) -> Result<Outcome> {
        if let Some(owner) = owner.filter(|_| io::stdin().is_terminal()) {
            return self.run_on_own_terminal(step, owner);
        }
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let lent = Lent::new();
        let session = if owner.is_some() { Session::Own } else { Session::Callers };
        let started =
            self.start(step, owner, session, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        let running = started.map_err(Error::io(format!("execute `{}`", program(step))))?;
        let leash = Leash::new(running, owner.map(|owner| owner.uid))?;
        let waited = leash.wait_for_exit();
        let status = leash.end();
        drop(lent);
        status.and_then(|status| waited.map(|()| outcome(status)))
    }

    fn run_on_own_terminal(&self, step: &Step, owner: Owner) -> Result<Outcome> {
        let made = Relay::new(owner);
        let (mut relay, terminal) = made.map_err(Error::io("make a terminal for the command"))?;
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let streams = [
            terminal.as_fd(),
            if stdout.is_terminal() { terminal.as_fd() } else { stdout.as_fd() },
            if stderr.is_terminal() { terminal.as_fd() } else { stderr.as_fd() },
        ];
        let started = self.start(step, Some(owner), Session::OwnTerminal, streams)?;
        drop(terminal);
        let running = started.map_err(Error::io(format!("execute `{}`", program(step))))?;
        let leash = Leash::new(running, Some(owner.uid))?;
        let stop = relay.carry(leash.exit());
        let status = leash.end()?;
        relay.drain().map_err(Error::io("show the command's output"))?;
        match stop.map_err(Error::io("carry between two terminals"))? {
            Stop::Ended => Ok(outcome(status)),
            Stop::Cancelled | Stop::TimedOut(_) => Ok(Outcome::Cancelled),
        }
    }

    /// Whether the step is to be kept from the host's network, and is not.
    fn is_refused_a_network(&self, step: &Step, owner: Option<Owner>) -> bool {
        wants_own_network(step, owner) && self.network.get() == Some(&false)
    }

    fn launch(&self, step: &Step, owner: Option<Owner>, session: Session) -> Result<Launch> {
        let known = self.user.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = known.map_or_else(calling_user, |user| user.name);
        let isolate_network = wants_own_network(step, owner) && self.network.get() != Some(&false);
        let actor = Actor { name: &name, owner, isolate_network, session };
        Launch::new(&self.config, step, actor).map_err(refused)
    }

    /// Starts the command; the inner error is the one of a program that cannot be executed.
    fn start(
        &self,
        step: &Step,
        owner: Option<Owner>,
        session: Session,
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<io::Result<Running>> {
        let mut launch = self.launch(step, owner, session)?;
        loop {
            match launch.start(stdio).map_err(Error::io("start a process"))? {
                Err((Stage::Network, error)) if self.network.get().is_none() => {
                    tracing::warn!(%error, "steps cannot be kept from the host's network");
                    self.network.get_or_init(|| false);
                    launch.isolate_network = false;
                }
                Err((Stage::Exec, error)) => return Ok(Err(error)),
                Err((Stage::Workdir, error)) => {
                    let action = format!("enter the working directory `{}`", step.workdir);
                    return Err(Error::io(action)(error));
                }
                Err((stage, error)) => return Err(Error::io(stage.action())(error)),
                Ok(running) => {
                    if launch.isolate_network {
                        self.network.get_or_init(|| true);
                    }
                    return Ok(Ok(running));
                }
            }
        }
    }

    /// Finds out whether steps can be kept from the host's network, by trying it in a process of its own. Until this or a
    /// step has tried, [`Capabilities::weaknesses`] hopes for the best, so that looking things up costs no process.
    pub fn isolates_network(&self) -> bool {
        self.root && *self.network.get_or_init(can_isolate_network)
    }

    fn weaknesses(&self) -> Vec<String> {
        let mut weaknesses = Vec::new();
        if !self.root {
            weaknesses.push(
                "without root steps run as you, and can read and write everything you can"
                    .to_owned(),
            );
        }
        let known_open = self.network.get() == Some(&false) || !platform::child::ISOLATES_NETWORK;
        if !self.root || known_open {
            weaknesses
                .push("steps without `(network host)` reach the network all the same".to_owned());
        }
        if self.root {
            weaknesses.extend(crate::jobs::weakness(Path::new("/"), &self.config.user_name));
        }
        weaknesses
    }
}

impl Sandbox for BuildUserSandbox {
    fn capabilities(&self) -> Capabilities {
        let name = match self.root {
            true => format!("build user {}", self.config.user_name),
            false => format!("the calling user {}", calling_user()),
        };
        Capabilities { name, slots: 1, weaknesses: self.weaknesses() }
    }

    fn check(&self, step: &Step) -> std::result::Result<(), SandboxError> {
        self.owner(&step.user)?;
        if let Some(network) = step.network.iter().find(|network| *network != "host") {
            return Err(SandboxError::Unsupported {
                what: format!("there is no network `{network}`"),
                hint: "use `(network host)`, or none".to_owned(),
            });
        }
        self.config.locate(step.workdir.as_bstr())?;
        Wanted::new(&self.config, step).map(drop)
    }

    fn locate(&self, path: &BStr) -> std::result::Result<PathBuf, SandboxError> {
        self.config.locate(path)
    }

    fn owner(&self, user: &User) -> std::result::Result<Option<Owner>, SandboxError> {
        match user {
            User::Ids { .. } => {
                Ok(self.root.then(|| Owner { uid: self.config.uid, gid: self.config.gid() }))
            }
            User::Name(name) => Err(SandboxError::Unsupported {
                what: format!("user `{name}`: every step runs as one build user"),
                hint: "give a number, as in `(user (uid 1000) (gid 1000))`; any will do".to_owned(),
            }),
        }
    }

    fn run(
        &self,
        step: &Step,
        tree: &Path,
        log: &BuildLog,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> std::result::Result<Outcome, SandboxError> {
        self.check(step)?;
        match self.run_on(step, tree, &Screen::Log(log, cancel), waiting) {
            Err(Error::Cancelled) => Ok(Outcome::Cancelled),
            result => result.map_err(during("run the step")),
        }
    }

    fn run_on_terminal(
        &self,
        step: &Step,
        tree: &Path,
        waiting: &dyn Fn(&str),
    ) -> std::result::Result<Outcome, SandboxError> {
        self.check(step)?;
        self.run_on(step, tree, &Screen::Terminal, waiting).map_err(during("run the step"))
    }
}

fn wants_own_network(step: &Step, owner: Option<Owner>) -> bool {
    owner.is_some() && platform::child::ISOLATES_NETWORK && step.network.is_empty()
}

/// Tries it in a child.
fn can_isolate_network() -> bool {
    let try_it = || {
        // SAFETY: ends this process.
        unsafe { libc::_exit(platform::child::isolate_network()) }
    };
    // SAFETY: the child only makes system calls and never returns.
    let tried = unsafe { crate::launch::fork(try_it) };
    let status = tried.and_then(|pid| Running { pid, keeper: None }.reap());
    platform::child::ISOLATES_NETWORK && status.is_ok_and(|status| status == 0)
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

fn calling_user() -> String {
    let uid = nix::unistd::geteuid();
    let found = nix::unistd::User::from_uid(uid).ok().flatten();
    found.map_or_else(|| uid.to_string(), |user| user.name)
}
