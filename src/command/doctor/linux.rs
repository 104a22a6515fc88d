//! Checks that concern Linux alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;

use super::check::Check;
use super::subject::Subject;

/// The checks of this system.
pub(super) fn checks(_: &Subject<'_>) -> Vec<Check> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let v1 = Path::new("/sys/fs/cgroup/memory").is_dir();
    vec![
        fuse(OpenOptions::new().read(true).write(true).open("/dev/fuse")),
        memory_controller(&read("/sys/fs/cgroup/cgroup.controllers"), &read("/proc/cgroups"), v1),
    ]
}

/// Whether files in `dir` can share blocks, by trying.
pub(super) fn can_clone(dir: &Path) -> io::Result<bool> {
    let mut from = tempfile::tempfile_in(dir)?;
    from.write_all(&[b'x'; 8192])?;
    let to = tempfile::tempfile_in(dir)?;
    match rustix::fs::ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn fuse(opened: io::Result<File>) -> Check {
    const NAME: &str = "FUSE";
    match opened {
        Ok(_) => Check::ok(NAME, "`/dev/fuse` can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::weak(
            NAME,
            "`/dev/fuse` may not be opened, so `/usr/local` cannot be remapped by a filesystem",
            "run obuild as root, or in a container that is given the device",
        ),
        Err(error) => Check::weak(
            NAME,
            format!("`/dev/fuse` cannot be opened: {error}"),
            "`modprobe fuse`, or a kernel that has it",
        ),
    }
}

/// `controllers` is that of the second version's root, `table` and `mounted` tell of the first one.
fn memory_controller(controllers: &str, table: &str, mounted: bool) -> Check {
    const NAME: &str = "cgroup memory";
    let enabled = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("memory") && words.next_back() == Some("1")
    };
    if controllers.split_whitespace().any(|name| name == "memory") {
        return Check::ok(NAME, "the memory controller is there (cgroup v2)");
    }
    if mounted && table.lines().any(enabled) {
        return Check::ok(NAME, "the memory controller is there (cgroup v1)");
    }
    Check::weak(
        NAME,
        "there is no memory controller: the memory of a step as a whole cannot be limited",
        "mount cgroup2 with the memory controller, or start the kernel with `cgroup_enable=memory`",
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn either_controller_will_do() {
        // cgroups(7): name, hierarchy, groups, enabled.
        let table =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t0\t5\t1\n";
        let off = table.replace("5\t1", "5\t0");
        for (controllers, table, mounted, expected) in [
            ("cpuset cpu io memory pids\n", "", false, Status::Ok),
            ("", table, true, Status::Ok),
            ("", table, false, Status::Weak),
            ("cpu\n", &off, true, Status::Weak),
            ("", "", false, Status::Weak),
        ] {
            assert_eq!(memory_controller(controllers, table, mounted).status, expected);
        }
    }

    #[test]
    fn a_device_that_is_closed_is_no_missing_one() {
        let closed = fuse(Err(io::ErrorKind::PermissionDenied.into()));
        assert!(closed.remedy.unwrap().contains("as root"));
        let missing = fuse(Err(io::ErrorKind::NotFound.into()));
        assert!(missing.remedy.unwrap().contains("modprobe"));
    }
}
