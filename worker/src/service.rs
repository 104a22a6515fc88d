//! This worker as a service of the system: what launchd and systemd are told, and how they are driven.
//!
//! Here are texts and command lines alone, the same on every system; the program writes and runs them.

mod launchd;
mod systemd;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Who keeps services running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Of macOS.
    Launchd,
    /// Of Linux.
    Systemd,
}

impl Manager {
    /// Whoever this system has.
    pub fn of_this_system() -> Self {
        if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd }
    }
}

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Begin to keep it running, now and after each start of the system; its unit has been written.
    Install,
    /// Stop it, and keep it running no more; its unit is still there.
    Uninstall,
    /// Take note that its unit has gone.
    Forget,
    /// Start it.
    Start,
    /// Let its jobs end, and stop it.
    Stop,
    /// Say how it is.
    Status,
    /// Show what it has said.
    Logs {
        /// How many lines.
        lines: u32,
        /// Go on with what it says.
        follow: bool,
    },
}

/// A command that drives the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command line.
    pub argv: Vec<OsString>,
    /// Its failure is no reason to stop, for the state that it leads to may be there already.
    pub may_fail: bool,
}

impl Step {
    fn must(argv: &[&str]) -> Self {
        Self { argv: argv.iter().map(OsString::from).collect(), may_fail: false }
    }

    fn may(argv: &[&str]) -> Self {
        Self { may_fail: true, ..Self::must(argv) }
    }
}

/// A worker as a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Who keeps it running.
    pub manager: Manager,
    /// What the manager calls it: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where the manager looks for units; `None` for where it always does.
    pub unit_dir: Option<PathBuf>,
    /// The file that the worker writes what it says to, if it does not leave that to the manager.
    pub log_file: Option<PathBuf>,
}

/// What a unit says of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The program and its arguments, each UTF-8.
    pub argv: Vec<String>,
    /// Seconds that jobs have to end in when the service is stopped.
    pub drain: u32,
    /// Where programs such as Git are looked for.
    pub path: String,
}

impl Service {
    /// Whether `name` can be a service's.
    pub fn is_name(name: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty()
            && name.len() <= 100
            && !name.starts_with(['-', '.'])
            && name.chars().all(fits)
    }

    /// The file that tells the manager of it.
    pub fn unit_path(&self) -> PathBuf {
        let (dir, end) = match self.manager {
            Manager::Launchd => (launchd::DIR, "plist"),
            Manager::Systemd => (systemd::DIR, "service"),
        };
        let dir = self.unit_dir.as_deref().unwrap_or(Path::new(dir));
        dir.join(format!("{}.{end}", self.name))
    }

    /// Where it says what nobody has caught: a panic, or that it cannot start. `None` where the manager looks after that.
    pub fn stray_log(&self) -> Option<PathBuf> {
        match (self.manager, &self.log_file) {
            (Manager::Systemd, _) => None,
            (Manager::Launchd, Some(log)) => Some(log.with_extension("err")),
            (Manager::Launchd, None) => Some(format!("/var/log/{}.err", self.name).into()),
        }
    }

    /// What that file says.
    pub fn unit(&self, unit: &Unit) -> String {
        match self.manager {
            Manager::Launchd => launchd::unit(self, unit),
            Manager::Systemd => systemd::unit(unit),
        }
    }

    /// How the manager is told.
    pub fn steps(&self, deed: Deed) -> Vec<Step> {
        if let (Deed::Logs { lines, follow }, Some(log)) = (deed, self.own_log()) {
            let (lines, log) = (lines.to_string(), log.display().to_string());
            let mut argv = vec!["tail", "-n", &lines];
            // By name: the file is another after its turning.
            argv.extend(follow.then_some("-F"));
            argv.push(&log);
            return vec![Step::must(&argv)];
        }
        match self.manager {
            Manager::Launchd => launchd::steps(self, deed),
            Manager::Systemd => systemd::steps(self, deed),
        }
    }

    /// The file to show to who asks what the worker says.
    fn own_log(&self) -> Option<PathBuf> {
        self.log_file.clone().or_else(|| self.stray_log())
    }
}

#[cfg(test)]
mod tests;
