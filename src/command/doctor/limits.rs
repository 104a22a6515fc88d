//! Limits of this process: its own, and without root the most that its steps can have.

use rustix::process::{Resource, Rlimit, getrlimit};

use super::check::Check;

/// Compilers and linkers open this many files at times. What launchd gives is 256.
const FEW_FILES: u64 = 1024;
/// A parallel build has this many processes at times.
const FEW_PROCESSES: u64 = 512;

/// The checks on limits.
pub(super) fn checks() -> Vec<Check> {
    let limits = [
        ("open files", Resource::Nofile, FEW_FILES, "-n"),
        ("processes", Resource::Nproc, FEW_PROCESSES, "-u"),
    ];
    limits.map(|(name, resource, few, flag)| judge(name, getrlimit(resource), few, flag)).into()
}

fn judge(name: &'static str, limit: Rlimit, few: u64, flag: &str) -> Check {
    match limit.current {
        None => Check::ok(name, "as many as the system has"),
        Some(most) if most >= few => Check::ok(name, format!("at most {most}")),
        Some(most) => Check::weak(
            name,
            format!("at most {most}, which is few for a build"),
            format!(
                "`ulimit {flag} {}` before obuild; under launchd, SoftResourceLimits in its plist",
                few * 4
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn few_is_weak() {
        let limit = |current| Rlimit { current, maximum: None };
        assert_eq!(judge("x", limit(None), 1024, "-n").status, Status::Ok);
        assert_eq!(judge("x", limit(Some(1024)), 1024, "-n").status, Status::Ok);
        let few = judge("x", limit(Some(256)), 1024, "-n");
        assert_eq!(few.status, Status::Weak);
        assert!(few.remedy.unwrap().starts_with("`ulimit -n 4096`"));
    }
}
