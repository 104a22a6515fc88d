//! The sandbox: as many steps at a time as there are slots, each as a build user, in the canonical home.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bstr::{BStr, ByteSlice};
use obuilder_core::contracts::Capabilities;
use obuilder_core::error::SandboxError;
use obuilder_core::spec::User;
use obuilder_core::step::{Outcome, Owner, Step};
use obuilder_core::{BuildLog, Cancel, Sandbox};

use crate::config::Config;
use crate::confine::Abilities;
use crate::error::{Error, Result, during};
use crate::fuse;
use crate::home::Home;
use crate::mounts::Wanted;
use crate::platform;
use crate::pool::{self, Pool, owner_of};
use crate::run::{Run, Screen, calling_user};
use crate::slot::Slot;
use crate::user::{self, BuildUser};
use crate::weaknesses;

/// Build users as a sandbox; see the [crate].
///
/// Numeric users of a spec, whatever their number, all mean the build user: specs in the field say uid 1000 for
/// "not root", and this sandbox has no others to give. A user by name cannot be had.
pub struct BuildUserSandbox {
    config: Config,
    root: bool,
    pool: Pool,
    /// What the system grants, once that has been tried.
    abilities: OnceLock<Abilities>,
}

impl BuildUserSandbox {
    /// A sandbox with these settings. Touches nothing yet: build users are made by the first step that needs one.
    pub fn new(config: Config) -> std::result::Result<Self, SandboxError> {
        if !config.home.is_absolute() || config.home.parent().is_none() {
            return Err(SandboxError::Unsupported {
                what: format!("the home `{}` is no absolute path below `/`", config.home.display()),
                hint: "give an absolute path with `--home`".to_owned(),
            });
        }
        if config.users.is_empty() {
            return Err(SandboxError::Unsupported {
                what: "no build user is configured".to_owned(),
                hint: "give at least one slot".to_owned(),
            });
        }
        if let Some(fuse) = &config.fuse {
            fuse::check(fuse, &config.home).map_err(|what| SandboxError::Unsupported {
                what,
                hint: "choose a home such as `MOUNT/users/builder` with `--home`".to_owned(),
            })?;
        }
        let root = nix::unistd::geteuid().is_root();
        let pool = Pool::new(&config);
        Ok(Self { config, root, pool, abilities: OnceLock::new() })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The build users, made if they are missing; none if steps run as the calling user.
    ///
    /// Needs no user to be idle.
    pub fn ensure_users(&self) -> std::result::Result<Vec<BuildUser>, SandboxError> {
        let slots = self.pool.slots().iter().filter(|_| self.root);
        let made = slots.map(|slot| self.pool.ensure(slot)).collect::<Result<_>>();
        made.map_err(during("make the build users"))
    }

    /// Removes the build users, also all others that were made for this home; gives the names of those that were
    /// there. Needs root.
    ///
    /// Waits for steps of theirs that run; their other processes are killed first. A user of such a name with another
    /// number is an error.
    pub fn remove_users(
        &self,
        waiting: &dyn Fn(&str),
    ) -> std::result::Result<Vec<String>, SandboxError> {
        let removed = |slot: &Slot| match pool::remove(slot, waiting) {
            Ok(there) => Ok(there.then(|| slot.user.name.clone())),
            Err(error) => Err(error),
        };
        let former = self.pool.former();
        let made_for_us = |slot: &&Slot| {
            let found = user::find(slot).ok().flatten();
            found.is_some_and(|user| user.registered_home == slot.home)
        };
        let all = self.pool.slots().iter().chain(former.iter().filter(made_for_us));
        let names = all.map(removed).collect::<Result<Vec<_>>>();
        let unmounted = |names| match &self.config.fuse {
            Some(fuse) => fuse::unmount(fuse, &self.config).map(|()| names),
            None => Ok(names),
        };
        names
            .and_then(unmounted)
            .map(|names| names.into_iter().flatten().collect())
            .map_err(during("remove the build users"))
    }

    /// Ends what a killed process has left running, and clears the homes of such steps, so far as nobody uses them.
    /// The next step would do so too; this does it now.
    pub fn recover(&self) -> std::result::Result<(), SandboxError> {
        if !self.root {
            return Ok(());
        }
        let at_once = Cancel::new();
        at_once.cancel();
        let tidy = |slot: &Slot| match Home::acquire(slot, Some(slot.owner()), &at_once, &|_| {}) {
            Ok(_) | Err(Error::Cancelled) => {}
            Err(error) => tracing::warn!(error = error.with_sources(), "a home is not cleared"),
        };
        self.pool.recover(tidy).map_err(during("clear what a killed process has left"))
    }

    fn run_on(
        &self,
        step: &Step,
        tree: &Path,
        screen: Screen<'_>,
        cancel: &Cancel,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome> {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (config, abilities) = (&self.config, self.granted()?);
        if !self.root {
            let slot = &Slot::callers(config);
            let run = Run { config, step, screen, cancel, waiting, abilities, slot, owner: None };
            return run.in_tree(tree, None);
        }
        if self.config.users.len() > 1 && self.config.fuse.is_none() && !abilities.world {
            return Err(Error::OneSlotOnly);
        }
        let mut taken = self.pool.take(owner_of(tree), cancel, waiting)?;
        let (slot, owner) = (&taken.slot.clone(), Some(taken.user.owner));
        let run = Run { config, step, screen, cancel, waiting, abilities, slot, owner };
        run.in_tree(tree, Some(&mut taken))
    }

    /// Finds out what the system grants to steps, of build users by trying it in a process of its own. Until this or a
    /// step has tried, [`Capabilities::weaknesses`] hopes for the best, so that looking things up costs no process.
    ///
    /// An error means that it cannot be said at the moment.
    pub fn abilities(&self) -> std::result::Result<Abilities, SandboxError> {
        self.granted().map_err(during("find out what the system grants"))
    }

    fn granted(&self) -> Result<Abilities> {
        let wanted = self.config.isolation;
        if !self.root {
            return Ok(platform::confine::of_callers(wanted));
        }
        if let Some(known) = self.abilities.get() {
            return Ok(*known);
        }
        // A failure that will pass must not leave every later step open.
        let action = "try how steps can be kept apart";
        let found = platform::confine::probe(wanted).map_err(Error::io(action))?;
        Ok(*self.abilities.get_or_init(|| found))
    }
}

impl Sandbox for BuildUserSandbox {
    fn capabilities(&self) -> Capabilities {
        let slots = if self.root { self.config.users.len() } else { 1 };
        let name = match (self.root, &self.config.users[..]) {
            (false, _) => format!("the calling user {}", calling_user()),
            (true, [user]) => format!("build user {}", user.name),
            (true, users) => {
                let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
                format!("build users {}", names.join(", "))
            }
        };
        let granted = if self.root { self.abilities.get().copied() } else { self.granted().ok() };
        let weaknesses = weaknesses::of(&self.config, self.root, granted);
        Capabilities { name, slots, weaknesses }
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
                let first = self.pool.slots().first().filter(|_| self.root);
                Ok(first.map(Slot::owner))
            }
            User::Name(name) => Err(SandboxError::Unsupported {
                what: format!("user `{name}`: every step runs as a build user"),
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
        match self.run_on(step, tree, Screen::Log(log), cancel, waiting) {
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
        let never = Cancel::new();
        let outcome = self.run_on(step, tree, Screen::Terminal, &never, waiting);
        outcome.map_err(during("run the step"))
    }
}
