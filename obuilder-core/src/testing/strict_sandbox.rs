//! A double of a sandbox that runs nothing, and is stricter with its caller than any real one.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bstr::{BStr, BString, ByteSlice};

use crate::cancel::Cancel;
use crate::contracts::{Capabilities, Sandbox};
use crate::error::SandboxError;
use crate::log::BuildLog;
use crate::spec::User;
use crate::step::{Outcome, Owner, Step};

/// One call of [`Sandbox::run`], for the script to act on.
pub struct Call<'a> {
    /// What is to be run.
    pub step: &'a Step,
    /// Where.
    pub tree: &'a Path,
    /// What it prints goes here.
    pub log: &'a BuildLog,
    /// When this is cancelled, the script must return soon.
    pub cancel: &'a Cancel,
}

impl Call<'_> {
    /// The command's last argument: what a spec's `(run (shell …))` says.
    pub fn command(&self) -> &BStr {
        self.step.argv.last().map_or(BStr::new(""), |last| last.as_bstr())
    }
}

type Script = dyn Fn(Call<'_>) -> Result<Outcome, SandboxError> + Send + Sync;

/// Plays a script instead of running commands, and panics when its caller breaks the contract:
///
/// - a step is checked, with no cache leased yet, before it is run;
/// - the tree is an existing directory by an absolute path, and no other step runs in it;
/// - the working directory is absolute, the command is not empty, no variable is set twice;
/// - each cache has a leased directory of its own, outside the tree; targets are distinct;
/// - the log is empty or has been written by the caller alone, and is not shared with another running step.
pub struct StrictSandbox {
    script: Box<Script>,
    owner: Option<Owner>,
    slots: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    checked: Vec<Step>,
    running: HashSet<PathBuf>,
    commands: Vec<BString>,
}

impl StrictSandbox {
    /// A sandbox whose steps do what `script` does.
    pub fn new(
        script: impl Fn(Call<'_>) -> Result<Outcome, SandboxError> + Send + Sync + 'static,
    ) -> Self {
        Self { script: Box::new(script), owner: None, slots: 1, state: Mutex::default() }
    }

    /// A sandbox whose steps print their command and succeed.
    pub fn echo() -> Self {
        Self::new(|call| {
            let line = [call.command().as_bytes(), b"\n"].concat();
            call.log.write(&line).map_err(|source| SandboxError::Failed {
                action: "write the log".to_owned(),
                source: Box::new(source),
            })?;
            Ok(Outcome::Exited(0))
        })
    }

    /// The same, with an owner for copied files.
    pub fn with_owner(self, owner: Owner) -> Self {
        Self { owner: Some(owner), ..self }
    }

    /// The same, saying that it runs so many steps at once instead of one. It never makes a step wait.
    pub fn with_slots(self, slots: usize) -> Self {
        Self { slots, ..self }
    }

    /// The commands that were run so far, in the order in which they began.
    pub fn commands(&self) -> Vec<BString> {
        self.lock().commands.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin<'a>(&'a self, step: &Step, tree: &'a Path) -> Running<'a> {
        let mut checked = step.clone();
        for cache in &mut checked.caches {
            assert!(cache.dir.is_dir(), "cache `{}` has no directory", cache.id);
            assert!(!cache.dir.starts_with(tree), "cache `{}` lies in the tree", cache.id);
            cache.dir = PathBuf::new();
        }
        let dirs: HashSet<_> = step.caches.iter().map(|cache| &cache.dir).collect();
        assert_eq!(dirs.len(), step.caches.len(), "two caches share a directory");
        assert!(tree.is_absolute(), "the tree `{}` is not absolute", tree.display());
        let found = tree.symlink_metadata();
        assert!(found.is_ok_and(|found| found.is_dir()), "no tree at `{}`", tree.display());
        let mut state = self.lock();
        assert!(state.checked.contains(&checked), "a step was run and never checked: {step:?}");
        state.commands.push(step.argv.last().cloned().unwrap_or_default());
        let alone = state.running.insert(tree.to_owned());
        assert!(alone, "two steps run in `{}`", tree.display());
        Running { sandbox: self, tree }
    }
}

/// Takes note when a step has ended, though its script may panic.
struct Running<'a> {
    sandbox: &'a StrictSandbox,
    tree: &'a Path,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.sandbox.lock().running.remove(self.tree);
    }
}

impl Sandbox for StrictSandbox {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "strict double".to_owned(), slots: self.slots, weaknesses: vec![] }
    }

    fn check(&self, step: &Step) -> Result<(), SandboxError> {
        assert!(!step.argv.is_empty(), "a step has no command");
        assert_eq!(step.workdir.first(), Some(&b'/'), "workdir `{}` is relative", step.workdir);
        let names: HashSet<_> = step.env.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), step.env.len(), "a variable is set twice: {:?}", step.env);
        for cache in &step.caches {
            assert_eq!(cache.dir, Path::new(""), "cache `{}` was leased too early", cache.id);
        }
        let caches = step.caches.iter().map(|cache| &cache.target);
        let targets: Vec<_> =
            caches.chain(step.secrets.iter().map(|secret| &secret.target)).collect();
        let distinct: HashSet<_> = targets.iter().collect();
        if distinct.len() != targets.len() {
            return Err(unsupported("two mounts have one target"));
        }
        if step.secrets_of_one_name().is_some() {
            return Err(unsupported("two secrets have one name"));
        }
        self.owner(&step.user)?;
        if step.network.iter().any(|network| network != "host") {
            return Err(unsupported("there is no network but `host`"));
        }
        self.lock().checked.push(step.clone());
        Ok(())
    }

    fn locate(&self, path: &BStr) -> Result<PathBuf, SandboxError> {
        assert_eq!(path.first(), Some(&b'/'), "`{path}` is relative");
        let mut located = PathBuf::new();
        for part in Path::new(&*path.to_os_str_lossy()).components() {
            match part {
                Component::Normal(name) => located.push(name),
                Component::ParentDir if !located.pop() => {
                    return Err(unsupported("`..` leads above the root"));
                }
                _ => {}
            }
        }
        Ok(located)
    }

    fn owner(&self, user: &User) -> Result<Option<Owner>, SandboxError> {
        match user {
            User::Ids { .. } => Ok(self.owner),
            User::Name(_) => Err(unsupported("users have numbers here")),
        }
    }

    fn run(
        &self,
        step: &Step,
        tree: &Path,
        log: &BuildLog,
        cancel: &Cancel,
        _waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        let _running = self.begin(step, tree);
        if cancel.is_cancelled() {
            return Ok(Outcome::Cancelled);
        }
        (self.script)(Call { step, tree, log, cancel })
    }

    fn run_on_terminal(
        &self,
        step: &Step,
        tree: &Path,
        _waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        let _running = self.begin(step, tree);
        Ok(Outcome::Exited(0))
    }
}

fn unsupported(what: &str) -> SandboxError {
    SandboxError::Unsupported { what: what.to_owned(), hint: "change the spec".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(command: &str) -> Step {
        super::super::sandbox::step(command)
    }

    fn run(sandbox: &StrictSandbox, step: &Step, tree: &Path) -> Outcome {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        sandbox.run(step, tree, &log, &Cancel::new(), &|_| {}).unwrap()
    }

    #[test]
    fn plays_its_script_and_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = StrictSandbox::new(|call| match call.command().as_bytes() {
            b"false" => Ok(Outcome::Exited(1)),
            _ => Ok(Outcome::Exited(0)),
        });
        for (command, status) in [("true", 0), ("false", 1)] {
            sandbox.check(&step(command)).unwrap();
            assert_eq!(run(&sandbox, &step(command), dir.path()), Outcome::Exited(status));
        }
        assert_eq!(sandbox.commands(), ["true", "false"]);
    }

    #[test]
    #[should_panic(expected = "never checked")]
    fn wants_a_step_checked_first() {
        run(&StrictSandbox::echo(), &step("true"), tempfile::tempdir().unwrap().path());
    }

    #[test]
    #[should_panic(expected = "no tree at")]
    fn wants_a_tree() {
        let sandbox = StrictSandbox::echo();
        sandbox.check(&step("true")).unwrap();
        run(&sandbox, &step("true"), &tempfile::tempdir().unwrap().path().join("gone"));
    }

    #[test]
    #[should_panic(expected = "set twice")]
    fn wants_each_variable_once() {
        let mut step = step("true");
        step.env = vec![("A".into(), "1".into()), ("A".into(), "2".into())];
        drop(StrictSandbox::echo().check(&step));
    }
}
