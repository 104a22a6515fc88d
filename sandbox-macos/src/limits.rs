//! How much of the machine a step may use, and what its log says when that was too little.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::libc::{self, RLIM_INFINITY, rlim_t};

use crate::platform::cgroup::{Counts, Group};
use crate::platform::limits::{CORE, OTHERS, OWN_MEMORY};

/// How much longer than its limit a process may go on that does not end by SIGXCPU.
const GRACE: rlim_t = 5;

/// What one step may use.
///
/// Where the system has control groups that we may use (Linux, as root), time, memory and processes are those of the whole
/// step. Elsewhere CPU time and memory are those of each process, and processes those of the build user. Core files are
/// never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU time, of all processors together.
    pub cpu: Option<Duration>,
    /// Bytes of memory. macOS has nothing to keep a step to it.
    pub memory: Option<u64>,
    /// Processes and threads at once. Only for build users: of the calling user, all of their processes would count.
    pub processes: u64,
    /// Bytes in one file.
    pub file_size: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu: None, memory: None, processes: 4096, file_size: None }
    }
}

/// One limit of a process, ready to be set: what it should be, and what can be had without root.
#[derive(Debug, Clone, Copy)]
struct ProcessLimit {
    resource: c_int,
    wanted: (rlim_t, rlim_t),
    within_inherited: (rlim_t, rlim_t),
}

impl ProcessLimit {
    fn new(resource: c_int, soft: rlim_t, hard: rlim_t) -> Self {
        let inherited = inherited(resource).unwrap_or(hard);
        let hard = hard.max(soft);
        let within_inherited = (soft.min(inherited), hard.min(inherited));
        Self { resource, wanted: (soft, hard), within_inherited }
    }

    /// Only makes system calls.
    fn set(&self) {
        if !set(self.resource, self.wanted) {
            // Lowering is always allowed.
            set(self.resource, self.within_inherited);
        }
    }
}

/// The hard limit of this process. (Not every system has the same type for the number.)
fn inherited(resource: c_int) -> Option<rlim_t> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives the call.
    let got = unsafe { libc::getrlimit(resource as _, &mut limit) };
    (got == 0).then_some(limit.rlim_max)
}

fn set(resource: c_int, (rlim_cur, rlim_max): (rlim_t, rlim_t)) -> bool {
    // SAFETY: the limit outlives the call.
    unsafe { libc::setrlimit(resource as _, &libc::rlimit { rlim_cur, rlim_max }) == 0 }
}

impl Limits {
    /// The limits of each process of a step: ours, and for all else the same, whoever has started us.
    fn of_processes(&self, is_build_user: bool, group: &Group) -> Vec<ProcessLimit> {
        let cpu = self.cpu.map(|limit| limit.as_secs() + rlim_t::from(limit.subsec_nanos() > 0));
        let file_size = self.file_size.unwrap_or(RLIM_INFINITY);
        let mut all = vec![
            ProcessLimit::new(libc::RLIMIT_CORE as c_int, CORE, CORE),
            ProcessLimit::new(libc::RLIMIT_FSIZE as c_int, file_size, file_size),
            match cpu.map(|seconds| seconds.max(1)) {
                Some(seconds) => ProcessLimit::new(
                    libc::RLIMIT_CPU as c_int,
                    seconds,
                    seconds.saturating_add(GRACE),
                ),
                None => ProcessLimit::new(libc::RLIMIT_CPU as c_int, RLIM_INFINITY, RLIM_INFINITY),
            },
        ];
        all.extend(OTHERS.iter().map(|(what, soft, hard)| ProcessLimit::new(*what, *soft, *hard)));
        if let Some(resource) = OWN_MEMORY {
            let own = self.memory.filter(|_| !group.limits_memory()).unwrap_or(RLIM_INFINITY);
            all.push(ProcessLimit::new(resource, own, own));
        }
        if is_build_user {
            // The system counts for a user what earlier steps left to be waited for too; a group counts one step alone.
            let most = if group.limits_processes() { RLIM_INFINITY } else { self.processes };
            all.push(ProcessLimit::new(libc::RLIMIT_NPROC as c_int, most, most));
        }
        all
    }

    /// What to say in the log of a step that met a limit; one line each.
    ///
    /// A program that met one may have dealt with it, so that this says nothing about how the step ended.
    fn told(&self, status: c_int, counts: Counts) -> String {
        let mut lines = String::new();
        let mut tell = |what: &str, limit: String, flag: &str| {
            lines.push_str(&format!("obuild: {what} its limit of {limit} (--{flag})\n"));
        };
        let well = status == 0;
        let killed =
            if well { "a process of the step was killed at" } else { "the step was killed at" };
        if let Some(limit) =
            self.cpu.filter(|limit| counts.cpu >= *limit || ended_by(status, libc::SIGXCPU))
        {
            let what = if well { "the step has used" } else { killed };
            tell(what, format!("{limit:?} of CPU time"), "max-cpu");
        }
        if let Some(limit) = self.memory.filter(|_| counts.memory > 0) {
            tell(killed, format!("{} of memory", size(limit)), "max-memory");
        }
        if counts.processes > 0 {
            let limit = format!("{} processes", self.processes);
            tell("the step could not start another process at", limit, "max-processes");
        }
        if let Some(limit) = self.file_size.filter(|_| ended_by(status, libc::SIGXFSZ)) {
            tell(killed, format!("{} for a file", size(limit)), "max-file-size");
        }
        lines
    }
}

/// Whether the command, or what a shell ran last, was killed by `signal`.
fn ended_by(status: c_int, signal: c_int) -> bool {
    match libc::WIFSIGNALED(status) {
        true => libc::WTERMSIG(status) == signal,
        false => libc::WEXITSTATUS(status) == 128 + signal,
    }
}

/// A size in the largest unit in which it is a whole number.
fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value > 0 && value.is_multiple_of(1024) && unit + 1 < units.len() {
        (value, unit) = (value / 1024, unit + 1);
    }
    format!("{value} {}", units[unit])
}

/// The limits of a step, ready to be imposed on a child.
#[derive(Debug)]
pub(crate) struct Bounds {
    limits: Limits,
    processes: Vec<ProcessLimit>,
    group: Group,
}

impl Bounds {
    /// Makes the planned group. The group goes when this is dropped; nothing of the step may live then.
    pub(crate) fn make(limits: Limits, is_build_user: bool, mut group: Group) -> Self {
        group.make(&limits);
        Self { processes: limits.of_processes(is_build_user, &group), limits, group }
    }

    /// Puts the calling process in bounds. -1 and errno on failure. Only makes system calls.
    pub(crate) fn enter(&self) -> c_int {
        for entrance in self.group.entrances() {
            // SAFETY: the file is open, and the buffer as long as we say.
            if unsafe { libc::write(entrance.as_raw_fd(), b"0".as_ptr().cast(), 1) } == -1 {
                return -1;
            }
        }
        self.processes.iter().for_each(ProcessLimit::set);
        0
    }

    /// Whether limits that should hold for all of the step hold for each of its processes alone.
    pub(crate) fn are_short(&self) -> bool {
        self.group.has_failed()
    }

    /// What to say in the log of a step that has ended with this wait status.
    pub(crate) fn told(&self, status: c_int) -> String {
        let counts = self.group.counts().unwrap_or_default();
        self.limits.told(status, counts)
    }

    /// Tells when the step has used up its CPU time.
    pub(crate) fn clock(&self) -> CpuClock<'_> {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        CpuClock { bounds: self, processors, looked: None }
    }
}

/// When a step has used up its CPU time.
#[derive(Debug)]
pub(crate) struct CpuClock<'a> {
    bounds: &'a Bounds,
    processors: u32,
    /// When somebody has looked, and how long the step could certainly go on then.
    looked: Option<(Instant, Duration)>,
}

/// Least time between two looks.
const LEAST: Duration = Duration::from_millis(20);

impl CpuClock<'_> {
    /// How long the step may certainly go on; `None` for ever, zero if it must end.
    pub(crate) fn left(&mut self) -> Option<Duration> {
        let limit = self.bounds.limits.cpu?;
        if let Some((when, left)) = self.looked
            && let Some(left) = left.checked_sub(when.elapsed()).filter(|left| !left.is_zero())
        {
            return Some(left);
        }
        let left = limit.saturating_sub(self.bounds.group.counts().ok()?.cpu);
        let left = if left.is_zero() { left } else { (left / self.processors).max(LEAST) };
        self.looked = Some((Instant::now(), left));
        Some(left)
    }
}

/// For a sandbox that has a limit which this system does not know for a step.
pub(crate) fn weakness(limits: &Limits, root: bool) -> Option<String> {
    let whole = root && Group::can_limit_memory();
    if !root && limits.processes != Limits::default().processes {
        return Some("the number of processes is not limited without root".to_owned());
    }
    (limits.memory.is_some() && !whole).then(|| match OWN_MEMORY {
        Some(_) => "memory is limited for each process, not for the step".to_owned(),
        None => "memory is not limited: this system has no means to".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(limits: Limits, status: c_int, counts: Counts) -> String {
        limits.told(status, counts)
    }

    #[test]
    fn only_limits_that_were_met_are_told() {
        let limits = Limits {
            cpu: Some(Duration::from_secs(2)),
            memory: Some(512 << 20),
            processes: 100,
            file_size: Some(1500),
        };
        assert_eq!(told(limits, 256, Counts::default()), "");
        let killed = Counts { memory: 1, ..Counts::default() };
        let line = "obuild: the step was killed at its limit of 512 MiB of memory (--max-memory)\n";
        assert_eq!(told(limits, libc::SIGKILL, killed), line);
        assert_eq!(told(Limits { memory: None, ..limits }, libc::SIGKILL, killed), "");
        let forks = Counts { processes: 3, ..Counts::default() };
        let line = "obuild: the step could not start another process at its limit of 100 processes (--max-processes)\n";
        assert_eq!(told(limits, 0, forks), line);
        let line = "obuild: the step was killed at its limit of 2s of CPU time (--max-cpu)\n";
        assert_eq!(told(limits, libc::SIGXCPU, Counts::default()), line);
        let line =
            "obuild: the step was killed at its limit of 1500 bytes for a file (--max-file-size)\n";
        // A shell whose command was killed.
        assert_eq!(told(limits, (128 + libc::SIGXFSZ) << 8, Counts::default()), line);
    }

    #[test]
    fn no_limit_is_above_the_inherited_one_without_root() {
        let limit = ProcessLimit::new(libc::RLIMIT_NOFILE as c_int, 1, 2);
        assert_eq!(limit.within_inherited, (1, 2));
        let limit = ProcessLimit::new(libc::RLIMIT_NOFILE as c_int, RLIM_INFINITY, RLIM_INFINITY);
        assert!(limit.within_inherited.0 <= inherited(libc::RLIMIT_NOFILE as c_int).unwrap());
    }
}
