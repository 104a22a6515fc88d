//! How a step is confined here: by Seatbelt, through `sandbox-exec`.
//!
//! Its manual calls the program deprecated; Bazel, Homebrew, opam and SwiftPM all use it, and macOS 26 enforces it.

use std::ffi::OsStr;
use std::ffi::c_int;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use bstr::BString;

use crate::config::Isolation;
use crate::confine::{Abilities, Confined};
use crate::nesting;
use crate::policy::{Network, Policy};
use crate::seatbelt::{Profile, real};

const SANDBOX_EXEC: &str = "/usr/bin/sandbox-exec";

/// Where the system keeps each user's caches and temporary files; permissions keep users apart there.
const USER_DIRS: &str = "/private/var/folders";

/// No process in a sandbox can have one of its own.
pub(crate) const REFUSES_NESTING: bool = true;

/// Seatbelt keeps steps from the network too; there are no mounts of a step's own.
pub(crate) fn probe(wanted: Isolation) -> io::Result<Abilities> {
    let confined = wanted == Isolation::Full && seatbelt().is_ok();
    Ok(Abilities { network: confined, world: false, policy: confined })
}

/// Steps of the calling user have no profile.
pub(crate) fn of_callers(_wanted: Isolation) -> Abilities {
    Abilities { network: false, world: false, policy: false }
}

/// A profile has no gaps that we know of.
pub(crate) fn gaps(_abilities: Abilities) -> Vec<&'static str> {
    Vec::new()
}

/// Whether steps can be confined: tried once, with a profile of our own, so that a system that does not know something in it is
/// found here and not by every step. An error says why not.
pub(crate) fn seatbelt() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    let try_it = || {
        let mut command = Command::new(SANDBOX_EXEC);
        let profile = Profile::new(&Policy {
            readable: vec!["/".into()],
            writable: vec!["/private/tmp".into()],
            executable: Vec::new(),
            hidden: vec!["/private/var/db/obuild".into()],
            network: Network::Loopback,
        });
        let arguments = profile.arguments().into_iter();
        let arguments = arguments.map(|argument| OsStr::from_bytes(&argument).to_owned());
        command.args(arguments).arg("/usr/bin/true").stdin(Stdio::null());
        match command.output() {
            Ok(output) => nesting::judge(output.status.success(), &output.stderr),
            Err(error) => Err(format!("`{SANDBOX_EXEC}` cannot be run: {error}")),
        }
    };
    TRIED.get_or_init(try_it).clone()
}

/// What stands before a command's own arguments; nothing where it is not confined.
#[derive(Debug)]
pub(crate) struct Confinement(Vec<BString>);

impl Confinement {
    /// Makes everything ready. The step's directories are there by now, so links on the way to them can be followed.
    pub(crate) fn new(step: &Confined<'_>) -> io::Result<Self> {
        let Some(policy) = step.policy.filter(|_| step.owner.is_some() && seatbelt().is_ok())
        else {
            return Ok(Self(Vec::new()));
        };
        let all = |paths: &[PathBuf]| paths.iter().map(|path| real(path)).collect::<Vec<_>>();
        let mut writable = all(&policy.writable);
        writable.push(USER_DIRS.into());
        let profile = Profile::new(&Policy {
            readable: all(&policy.readable),
            writable,
            executable: all(&policy.executable),
            hidden: all(&policy.hidden),
            network: policy.network,
        });
        let program = [BString::from(SANDBOX_EXEC)];
        Ok(Self(program.into_iter().chain(profile.arguments()).collect()))
    }

    /// The command line that runs `argv` confined.
    pub(crate) fn wrap(&self, argv: Vec<BString>) -> Vec<BString> {
        self.0.iter().cloned().chain(argv).collect()
    }

    /// Nothing is to be done as root: `sandbox-exec` confines itself, as the build user.
    ///
    /// # Safety
    /// None.
    pub(crate) unsafe fn enter(&self) -> c_int {
        0
    }

    /// Nor is anything as the build user.
    pub(crate) fn seal(&self) -> c_int {
        0
    }
}
