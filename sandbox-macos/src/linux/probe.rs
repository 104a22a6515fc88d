//! What the kernel has to confine processes with.

use std::io;
use std::ptr;

use nix::libc;

use crate::probe::{Means, in_child};

/// Each by the call that a step's start would make, so far as that has no effect.
pub(crate) fn means() -> Vec<Means> {
    vec![
        Means {
            name: "Landlock",
            found: landlock(),
            remedy: "start the kernel with `landlock` in `lsm=`; without it a mount namespace has to do",
        },
        Means {
            name: "mount namespaces",
            found: mount_namespace(),
            remedy: "run obuild as root; a container may have to be given more rights (`--privileged`)",
        },
        Means {
            name: "seccomp",
            found: seccomp(),
            remedy: "use a kernel with CONFIG_SECCOMP_FILTER",
        },
    ]
}

fn landlock() -> Result<String, String> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag and no attributes the call only tells the version.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION)
    };
    match version {
        1.. => Ok(format!("ABI {version}")),
        _ => Err(format!("the kernel has none: {}", io::Error::last_os_error())),
    }
}

fn mount_namespace() -> Result<String, String> {
    // SAFETY: a plain system call, in a process of its own.
    match in_child(|| unsafe { libc::unshare(libc::CLONE_NEWNS) == 0 }) {
        true => Ok("a step can have mounts of its own".to_owned()),
        false => Err("this process may not make one".to_owned()),
    }
}

/// A kernel that knows filters looks at the pointer first, which is none.
fn seccomp() -> Result<String, String> {
    let nowhere = ptr::null::<libc::sock_fprog>();
    // SAFETY: without a filter nothing is set.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, nowhere) };
    let error = io::Error::last_os_error();
    match (set, error.raw_os_error()) {
        (-1, Some(libc::EFAULT)) => Ok("system calls can be filtered".to_owned()),
        _ => Err(format!("system calls cannot be filtered: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_changed_by_looking() {
        let namespace = || std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let status = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let seccomp = |text: String| {
            text.lines().find(|line| line.starts_with("Seccomp:")).map(str::to_owned)
        };
        let before = (namespace(), seccomp(status()));
        let found = means();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|means| !means.remedy.is_empty()));
        assert_eq!((namespace(), seccomp(status())), before);
    }
}
