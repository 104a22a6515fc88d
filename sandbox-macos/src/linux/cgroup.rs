//! A control group for a running step: it bounds and counts what all of its processes use together.
//!
//! The group stands below our own, so that what binds us binds the step too. In the unified hierarchy a group with processes
//! cannot have such children, so it stands below the nearest one that can: limits of the groups in between (a systemd service's,
//! say) do not bind steps there. Its directories are root's: nobody else leaves.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits::Limits;

/// How long a group may take to lose its last process, which is dead.
const PATIENCE: Duration = Duration::from_secs(2);
/// What names of groups begin with; the build user's number follows.
const PREFIX: &str = "obuild-";

/// What a group has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// CPU time used.
    pub(crate) cpu: Duration,
    /// Processes killed for want of memory.
    pub(crate) memory: u64,
    /// Forks refused.
    pub(crate) processes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Processes,
    Cpu,
}

impl Controller {
    /// Its name in the first and in the second version.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Memory => ("memory", "memory"),
            Self::Processes => ("pids", "pids"),
            Self::Cpu => ("cpuacct", "cpu"),
        }
    }
}

/// One directory of a group.
#[derive(Debug)]
struct Part {
    dir: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

/// A group, in one directory or in one for each controller. Dropping it removes it; nothing may live in it then.
#[derive(Debug, Default)]
pub(crate) struct Group {
    parts: Vec<Part>,
    entrances: Vec<File>,
    failed: bool,
}

impl Group {
    /// Where the group of `uid` would be, as far as `limits` needs one and the system has it. Makes nothing.
    pub(crate) fn planned(limits: &Limits, uid: u32) -> Self {
        let mut wanted = vec![Controller::Processes];
        wanted.extend(limits.memory.map(|_| Controller::Memory));
        wanted.extend(limits.cpu.map(|_| Controller::Cpu));
        let mut parts = parents(&wanted);
        for part in &mut parts {
            part.dir.push(format!("{PREFIX}{uid}"));
        }
        Self { parts, entrances: Vec::new(), failed: false }
    }

    /// Whether root could bound the memory of a whole step here.
    pub(crate) fn can_limit_memory() -> bool {
        let parts = parents(&[Controller::Memory]);
        parts.iter().any(|part| part.controllers.contains(&Controller::Memory))
    }

    /// The directories of the group.
    pub(crate) fn dirs(&self) -> Vec<&Path> {
        self.parts.iter().map(|part| part.dir.as_path()).collect()
    }

    /// Makes the planned directories; one that cannot be had is given up, with a warning.
    pub(crate) fn make(&mut self, limits: &Limits) {
        self.parts.retain(|part| match part.make(limits) {
            Ok(entrance) => {
                self.entrances.push(entrance);
                true
            }
            Err(error) => {
                tracing::warn!(dir = %part.dir.display(), %error, "a step has no control group");
                remove_left(&part.dir);
                self.failed |= part.controllers.iter().any(|of| *of != Controller::Processes);
                false
            }
        });
    }

    /// Whether the group, once made, bounds memory.
    pub(crate) fn limits_memory(&self) -> bool {
        self.part(Controller::Memory).is_some()
    }

    /// Whether the group, once made, bounds the number of processes.
    pub(crate) fn limits_processes(&self) -> bool {
        self.part(Controller::Processes).is_some()
    }

    /// Whether a part of it that bounds memory or time could not be made.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whoever writes `0` to each of these is in the group.
    pub(crate) fn entrances(&self) -> &[File] {
        &self.entrances
    }

    fn part(&self, controller: Controller) -> Option<&Part> {
        self.parts.iter().find(|part| part.controllers.contains(&controller))
    }

    /// What has been counted up to now; zero where nobody counts.
    pub(crate) fn counts(&self) -> io::Result<Counts> {
        let mut counts = Counts::default();
        if let Some(part) = self.part(Controller::Memory) {
            let file = if part.unified { "memory.events" } else { "memory.oom_control" };
            counts.memory = field(&part.dir.join(file), "oom_kill")?;
        }
        if let Some(part) = self.part(Controller::Processes) {
            counts.processes = field(&part.dir.join("pids.events"), "max")?;
        }
        if let Some(part) = self.part(Controller::Cpu) {
            counts.cpu = match part.unified {
                true => Duration::from_micros(field(&part.dir.join("cpu.stat"), "usage_usec")?),
                false => Duration::from_nanos(number(&part.dir.join("cpuacct.usage"))?),
            };
        }
        Ok(counts)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.entrances.is_empty() {
            self.parts.iter().for_each(|part| remove_left(&part.dir));
        }
    }
}

impl Part {
    fn make(&self, limits: &Limits) -> io::Result<File> {
        // What a killed run has left has counted already.
        if self.dir.exists() {
            remove_left(&self.dir);
        }
        fs::create_dir(&self.dir)?;
        let write = |file: &str, value: &str| fs::write(self.dir.join(file), value);
        if let Some(limit) =
            limits.memory.filter(|_| self.controllers.contains(&Controller::Memory))
        {
            let bytes = limit.to_string();
            let (memory, swap, no_swap) = match self.unified {
                true => ("memory.max", "memory.swap.max", "0"),
                false => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", &*bytes),
            };
            write(memory, &bytes)?;
            if self.dir.join(swap).exists() {
                write(swap, no_swap)?;
            }
            if self.unified {
                write("memory.oom.group", "1")?;
            }
        }
        if self.controllers.contains(&Controller::Processes) {
            write("pids.max", &limits.processes.to_string())?;
        }
        // A thread that moves itself alone waits for nobody; the unified hierarchy has no such entrance.
        let entrance = if self.unified { "cgroup.procs" } else { "tasks" };
        File::options().write(true).open(self.dir.join(entrance))
    }
}

/// Removes a group that a step, maybe a killed one, has left; nothing in it lives any more.
pub(crate) fn remove_left(dir: &Path) {
    let ours =
        dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    if !ours {
        return;
    }
    let started = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_micros(500));
            }
            Err(error) => {
                return tracing::warn!(dir = %dir.display(), %error, "failed to remove a control group");
            }
        }
    }
}

/// The directories in which groups for `wanted` can be made, each with what it can be made for.
fn parents(wanted: &[Controller]) -> Vec<Part> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hierarchies = hierarchies(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    let mut parts: Vec<Part> = Vec::new();
    let mut rest = Vec::new();
    for controller in wanted {
        let name = controller.names().0;
        let first = hierarchies.iter().find(|found| found.controllers.iter().any(|c| c == name));
        match first {
            Some(found) => match parts.iter_mut().find(|part| part.dir == found.own) {
                Some(part) => part.controllers.push(*controller),
                None => parts.push(Part {
                    dir: found.own.clone(),
                    unified: false,
                    controllers: vec![*controller],
                }),
            },
            None => rest.push(*controller),
        }
    }
    let unified = hierarchies.iter().find(|found| found.controllers.is_empty());
    parts.extend(unified.filter(|_| !rest.is_empty()).and_then(|found| in_unified(found, &rest)));
    parts
}

/// The nearest group that gives its children the most of `wanted`.
fn in_unified(found: &Hierarchy, wanted: &[Controller]) -> Option<Part> {
    let given = |dir: &Path| {
        let text = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        // CPU time is counted in every group.
        let has = |controller: &&Controller| {
            **controller == Controller::Cpu
                || text.split_whitespace().any(|c| c == controller.names().1)
        };
        wanted.iter().filter(has).copied().collect::<Vec<_>>()
    };
    let up = found.own.ancestors().take_while(|dir| dir.starts_with(&found.top));
    let (dir, controllers) = up
        .map(|dir| (dir, given(dir)))
        .reduce(|best, next| if next.1.len() > best.1.len() { next } else { best })?;
    (!controllers.is_empty()).then(|| Part { dir: dir.to_owned(), unified: true, controllers })
}

/// A mounted hierarchy of groups.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// None for the unified one.
    controllers: Vec<String>,
    /// Where it is mounted.
    top: PathBuf,
    /// Our own group in it.
    own: PathBuf,
}

/// Reads `/proc/self/cgroup` and `/proc/self/mountinfo`; see cgroups(7) and proc(5).
fn hierarchies(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let found = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let controllers: Vec<String> =
            controllers.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
        let (root, top) = mounts.lines().find_map(|line| mount_of(line, &controllers))?;
        let below = Path::new(path).strip_prefix(root).ok()?;
        let own = if below.as_os_str().is_empty() { top.clone() } else { top.join(below) };
        Some(Hierarchy { controllers, top, own })
    });
    found.collect()
}

/// Root and place of the mount in `line`, if it is the one of `controllers`.
fn mount_of<'a>(line: &'a str, controllers: &[String]) -> Option<(&'a str, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut kind = kind.split(' ');
    let wanted = if controllers.is_empty() { "cgroup2" } else { "cgroup" };
    let options = (kind.next()? == wanted).then(|| kind.nth(1)).flatten()?;
    let has = |controller: &String| options.split(',').any(|option| option == controller);
    controllers.iter().all(has).then_some(())?;
    Some((place.next()?, place.next()?.into()))
}

fn field(file: &Path, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(value.unwrap_or(0))
}

fn number(file: &Path) -> io::Result<u64> {
    Ok(fs::read_to_string(file)?.trim().parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_found_where_they_are_mounted() {
        let groups = "4:memory:/a/b\n3:cpu,cpuacct:/\n2:name=systemd:/x\n0::/user.slice/s\n";
        let mounts = "\
            24 1 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            25 1 0:2 /a /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
            26 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        let found = hierarchies(groups, mounts);
        let own: Vec<_> = found.iter().map(|found| found.own.to_str().unwrap()).collect();
        let dir = "/sys/fs/cgroup";
        let expected = ["memory/b", "cpu,cpuacct", "unified/user.slice/s"];
        assert_eq!(own, expected.map(|path| format!("{dir}/{path}")));
        assert_eq!(found[1].controllers, ["cpu", "cpuacct"]);
    }

    #[test]
    fn the_nearest_group_that_gives_the_most_is_taken() {
        let top = tempfile::tempdir().unwrap();
        let own = top.path().join("a/b/c");
        fs::create_dir_all(&own).unwrap();
        let give =
            |dir: &Path, what: &str| fs::write(dir.join("cgroup.subtree_control"), what).unwrap();
        let found = Hierarchy { controllers: vec![], top: top.path().to_owned(), own: own.clone() };
        let wanted = [Controller::Memory, Controller::Processes];
        assert!(in_unified(&found, &wanted).is_none());
        let cpu = in_unified(&found, &[Controller::Cpu]).unwrap();
        assert_eq!(cpu.dir, own);
        give(top.path(), "cpu memory pids");
        give(&top.path().join("a"), "memory pids");
        give(&own, "pids");
        let part = in_unified(&found, &wanted).unwrap();
        assert_eq!((part.dir, part.controllers), (top.path().join("a"), wanted.to_vec()));
    }

    #[test]
    fn only_what_is_named_as_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, others) = (dir.path().join("obuild-1"), dir.path().join("other"));
        for dir in [&ours, &others] {
            fs::create_dir(dir).unwrap();
            remove_left(dir);
        }
        assert!(!ours.exists() && others.exists());
    }
}
