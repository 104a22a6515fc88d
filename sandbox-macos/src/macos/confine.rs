//! Seatbelt, by `sandbox-exec`.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::nesting;
use crate::policy::Policy;
use crate::seatbelt::{Profile, canonical};

/// Its manual calls it deprecated; it is what Bazel, Homebrew, opam and SwiftPM use.
const SANDBOX_EXEC: &str = "/usr/bin/sandbox-exec";

/// Where the system keeps each user's caches and temporary files; permissions keep users apart there.
const USER_DIRS: &str = "/private/var/folders";

/// Whether steps can be confined: tried once, with a profile that forbids nothing, as Bazel does. An error says why not.
pub(crate) fn seatbelt() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    let try_it = || {
        let mut command = Command::new(SANDBOX_EXEC);
        command.args(["-p", "(version 1) (allow default)", "/usr/bin/true"]).stdin(Stdio::null());
        match command.output() {
            Ok(output) => nesting::judge(output.status.success(), &output.stderr),
            Err(error) => Err(format!("`{SANDBOX_EXEC}` cannot be run: {error}")),
        }
    };
    TRIED.get_or_init(try_it).clone()
}

/// What stands before a command's own arguments to run it under `policy`; nothing where it cannot be confined.
pub(crate) fn prefix(policy: &Policy) -> Vec<OsString> {
    if let Err(error) = seatbelt() {
        tracing::warn!("steps are not confined: {error}");
        return Vec::new();
    }
    let real = |path: &std::path::PathBuf| path.canonicalize().unwrap_or_else(|_| canonical(path));
    let all = |paths: &[std::path::PathBuf]| paths.iter().map(real).collect::<Vec<_>>();
    let mut writable = all(&policy.writable);
    writable.push(USER_DIRS.into());
    let policy = Policy {
        readable: all(&policy.readable),
        writable,
        executable: all(&policy.executable),
        hidden: all(&policy.hidden),
        network: policy.network,
    };
    let mut words = vec![SANDBOX_EXEC.into()];
    words.extend(Profile::new(&policy).arguments());
    words
}
