//! A view of the filesystem of its own for a step: a mount namespace.
//!
//! In it the whole system is read-only; what the policy hides is covered by empty directories; the step's tree, wherever its slot
//! has placed it, stands at the canonical home; the temporary directories are its own; its secrets are in memory and
//! nowhere else; and the processes of others are not in `/proc`. Nothing of this is seen outside, and all of it goes with the step's
//! last process. (See mount_namespaces(7), mount_setattr(2), open_tree(2).)

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use nix::libc;
use obuilder_core::step::Owner;

use crate::config::beside;
use crate::confine::Confined;
use crate::policy::Network;

/// Where services of the host listen.
const SOCKETS: &str = "/run";
/// Temporary, but in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Something that is covered.
#[derive(Debug)]
struct Mask {
    path: CString,
    is_dir: bool,
}

/// Something that is shown elsewhere.
#[derive(Debug)]
struct Shown {
    source: CString,
    target: CString,
    /// The directories that lead to the target, outermost first, and the target; made where they are missing.
    way: Vec<CString>,
}

/// A secret.
#[derive(Debug)]
struct Secret {
    path: CString,
    value: Vec<u8>,
    /// Where in the home it is shown too.
    target: Option<CString>,
}

/// All that is done, made ready before the fork.
#[derive(Debug)]
pub(crate) struct World {
    /// Whether there is a policy to enforce, or only a home to show.
    confined: bool,
    home: Shown,
    /// In the order in which they are shown.
    temporary: Vec<Shown>,
    /// Temporary directories in which the home lies, so that they cannot be the slot's own: memory stands for them.
    covered: Vec<CString>,
    masks: Vec<Mask>,
    /// Directories of the home that are shown elsewhere.
    prefixes: Vec<(CString, CString)>,
    secrets_dir: Shown,
    secrets: Vec<Secret>,
    owner: Owner,
}

impl World {
    /// The world of a build user's step.
    pub(crate) fn new(step: &Confined<'_>) -> io::Result<Self> {
        let slot = step.slot;
        let home = Shown::new(&slot.place, &slot.home)?;
        let mut temporary = vec![Shown::new(&slot.beside(".tmp"), &beside(&slot.home, ".tmp"))?];
        let (mut masks, mut covered) = (Vec::new(), Vec::new());
        if let Some(policy) = step.policy {
            // Before what may lie below them.
            for dir in crate::platform::TEMPORARY_DIRS {
                if dir == SHARED_MEMORY || slot.home.starts_with(dir) {
                    covered.push(string(Path::new(dir))?);
                } else {
                    temporary.insert(0, Shown::new(&slot.beside(".tmp"), Path::new(dir))?);
                }
            }
            let sockets = (policy.network == Network::Loopback).then(|| PathBuf::from(SOCKETS));
            masks = outermost(policy.hidden.iter().cloned().chain(sockets))?
                .into_iter()
                .map(Mask::new)
                .collect::<io::Result<_>>()?;
        }
        let prefix = |(prefix, shown): &(PathBuf, PathBuf)| Ok((string(shown)?, string(prefix)?));
        let secrets_dir = beside(&slot.home, ".secrets");
        let secret = |(name, value, target): &(&bstr::BStr, &bstr::BStr, Option<PathBuf>)| {
            let path = [secrets_dir.as_os_str().as_bytes(), b"/", name.as_ref()].concat();
            let target = target.as_deref().map(string).transpose()?;
            Ok(Secret { path: CString::new(path)?, value: value.to_vec(), target })
        };
        Ok(Self {
            confined: step.policy.is_some(),
            home,
            temporary,
            covered,
            masks,
            prefixes: step.prefixes.iter().map(prefix).collect::<io::Result<_>>()?,
            secrets: step.wanted.secrets.iter().map(secret).collect::<io::Result<_>>()?,
            secrets_dir: Shown::new(&secrets_dir, &secrets_dir)?,
            owner: step.owner.ok_or(io::ErrorKind::InvalidInput)?,
        })
    }

    /// Whether the calling process, which has one thread and comes to nothing, may make a world.
    pub(crate) fn is_granted() -> bool {
        // SAFETY: plain system calls.
        unsafe { leave_the_hosts() != -1 && set_attributes(c"/", RECURSIVE, READ_ONLY) != -1 }
    }

    /// Moves the calling process to this world. -1 and errno on failure.
    ///
    /// # Safety
    /// Only for a child between fork and exec, which has one thread.
    pub(crate) unsafe fn enter(&self) -> c_int {
        // SAFETY: plain system calls on strings that end with a null byte.
        unsafe { self.try_enter().map_or(-1, |()| 0) }
    }

    /// `None` and errno on failure.
    unsafe fn try_enter(&self) -> Option<()> {
        // SAFETY: as above.
        unsafe {
            done(leave_the_hosts())?;
            let home = done(clone_all(libc::AT_FDCWD, &self.home.source))?;
            let mut own = [-1; 8];
            for (fd, shown) in own.iter_mut().zip(&self.temporary) {
                *fd = done(clone_tree(libc::AT_FDCWD, &shown.source))?;
            }
            if self.confined {
                done(set_attributes(c"/", RECURSIVE, READ_ONLY | NO_SETUID))?;
                // Where this is refused the old one stays, and tells of everybody's processes.
                mount(c"proc", c"/proc", c"hidepid=2");
                // The host's queues would be read through the old one; most systems show them here, some nowhere.
                mount(c"mqueue", c"/dev/mqueue", c"");
            }
            for dir in &self.covered {
                allow(mount(c"tmpfs", dir, c"mode=1777"), &[libc::ENOENT])?;
            }
            // The temporary directory at its usual place comes last, after the masks, which may cover it.
            let (tmp, usual) = self.temporary.split_last()?;
            for (shown, fd) in usual.iter().zip(own) {
                allow(shown.place(fd), &[libc::ENOENT])?;
            }
            for mask in &self.masks {
                allow(mask.cover(), &[libc::ENOENT])?;
            }
            done(self.home.place(home))?;
            done(tmp.place(own[usual.len()]))?;
            if !self.secrets.is_empty() {
                self.show_secrets(home)?;
            }
            // With the secrets in them.
            for (part, prefix) in &self.prefixes {
                allow(show_part(home, part, prefix), &[libc::ENOENT, libc::ENOTDIR, libc::ELOOP])?;
            }
            for mask in &self.masks {
                // Where a temporary directory has been covered, nothing was there to be masked; the way to the home is now.
                let set = set_attributes(&mask.path, 0, READ_ONLY);
                allow(set, &[libc::ENOENT, libc::EINVAL])?;
            }
            Some(())
        }
    }

    /// Writes the secrets to memory, and shows them where they are wanted in the home.
    unsafe fn show_secrets(&self, home: c_int) -> Option<()> {
        let dir = &self.secrets_dir.target;
        // SAFETY: plain system calls on strings that end with a null byte.
        unsafe {
            self.secrets_dir.make_way();
            done(mount(c"tmpfs", dir, c"mode=0500"))?;
            done(libc::chown(dir.as_ptr(), self.owner.uid, self.owner.gid))?;
            for secret in &self.secrets {
                done(secret.write(self.owner))?;
            }
            done(set_attributes(dir, 0, READ_ONLY))?;
            for secret in &self.secrets {
                let Some(target) = &secret.target else { continue };
                let file = done(clone_tree(libc::AT_FDCWD, &secret.path))?;
                let spot = done(open_beneath(home, target, libc::O_PATH | libc::O_NOFOLLOW))?;
                done(move_to(file, spot, c""))?;
            }
            Some(())
        }
    }
}

impl Secret {
    unsafe fn write(&self, owner: Owner) -> c_int {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: plain system calls; the value is as long as we say.
        unsafe {
            let file = libc::open(self.path.as_ptr(), flags, 0o400);
            let (mut written, all) = (0, self.value.len());
            while file >= 0 && written < all {
                let rest = &self.value[written..];
                match libc::write(file, rest.as_ptr().cast(), rest.len()) {
                    -1 => return -1,
                    some => written += some.cast_unsigned(),
                }
            }
            let given = libc::fchown(file, owner.uid, owner.gid);
            // Nothing that is open for writing can become read-only.
            if libc::close(file) == -1 { -1 } else { given }
        }
    }
}

impl Shown {
    fn new(source: &Path, target: &Path) -> io::Result<Self> {
        let mut way: Vec<_> = target.ancestors().map(string).collect::<io::Result<_>>()?;
        way.reverse();
        Ok(Self { source: string(source)?, target: string(target)?, way })
    }

    /// Makes what is missing of the way to the target. What cannot be made is missed later.
    unsafe fn make_way(&self) {
        for dir in &self.way {
            // SAFETY: a plain system call on a string that ends with a null byte.
            unsafe { libc::mkdir(dir.as_ptr(), 0o755) };
        }
    }

    unsafe fn place(&self, tree: c_int) -> c_int {
        // SAFETY: plain system calls on strings that end with a null byte.
        unsafe {
            self.make_way();
            move_to(tree, libc::AT_FDCWD, &self.target)
        }
    }
}

impl Mask {
    fn new(path: PathBuf) -> io::Result<Self> {
        Ok(Self { is_dir: path.is_dir(), path: string(&path)? })
    }

    unsafe fn cover(&self) -> c_int {
        // SAFETY: plain system calls on strings that end with a null byte.
        unsafe {
            if self.is_dir {
                return mount(c"tmpfs", &self.path, c"mode=0755,size=1m");
            }
            match clone_tree(libc::AT_FDCWD, c"/dev/null") {
                -1 => -1,
                nothing => move_to(nothing, libc::AT_FDCWD, &self.path),
            }
        }
    }
}

/// Shows `part` of the home, if it is a directory and no symlink, at `prefix`, if that is there.
unsafe fn show_part(home: c_int, part: &CStr, prefix: &CStr) -> c_int {
    // SAFETY: plain system calls on strings that end with a null byte.
    unsafe {
        let found = open_beneath(home, part, libc::O_PATH | libc::O_DIRECTORY);
        let tree = if found == -1 { -1 } else { clone_with(found, c"", RECURSIVE) };
        if tree == -1 { -1 } else { move_to(tree, libc::AT_FDCWD, prefix) }
    }
}

/// Mounts, System V and POSIX queues, semaphores and shared memory: all of them new, and nobody else's.
unsafe fn leave_the_hosts() -> c_int {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: plain system calls on strings that end with a null byte.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC) == -1 {
            return -1;
        }
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null())
    }
}

/// What failed with one of these errors was not there, and need not be.
fn allow(result: c_int, errors: &[c_int]) -> Option<()> {
    (result != -1 || errors.contains(&crate::launch::errno())).then_some(())
}

fn done(result: c_int) -> Option<c_int> {
    (result != -1).then_some(result)
}

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NO_SETUID: u64 = libc::MOUNT_ATTR_NOSUID;
const RECURSIVE: c_uint = libc::AT_RECURSIVE as c_uint;

/// Sets attributes of the mount at `path`.
unsafe fn set_attributes(path: &CStr, flags: c_uint, attributes: u64) -> c_int {
    // SAFETY: as below.
    unsafe { set_attributes_at(libc::AT_FDCWD, path, flags, attributes) }
}

/// Sets attributes of the mount of `path` below `dir`.
unsafe fn set_attributes_at(dir: c_int, path: &CStr, flags: c_uint, attributes: u64) -> c_int {
    // SAFETY: the structure holds numbers alone, and outlives the call.
    unsafe {
        let mut wanted: libc::mount_attr = std::mem::zeroed();
        wanted.attr_set = attributes;
        let size = size_of::<libc::mount_attr>();
        result(libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            &raw const wanted,
            size,
        ))
    }
}

/// Mounts a new filesystem of this kind.
unsafe fn mount(kind: &CStr, at: &CStr, options: &CStr) -> c_int {
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: the strings end with a null byte.
    unsafe {
        libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    }
}

/// A copy of the mount of `path` below `dir` (of `dir` itself, if the path is empty), which is nowhere yet. Setuid files in it
/// have no effect, and devices are closed.
unsafe fn clone_tree(dir: c_int, path: &CStr) -> c_int {
    // SAFETY: as below.
    unsafe { clone_with(dir, path, 0) }
}

/// Likewise, with everything that is mounted below it: caches, where they are volumes of their own.
unsafe fn clone_all(dir: c_int, path: &CStr) -> c_int {
    // SAFETY: as below.
    unsafe {
        let tree = clone_with(dir, path, RECURSIVE);
        let attributes = NO_SETUID | libc::MOUNT_ATTR_NODEV;
        let flags = libc::AT_EMPTY_PATH as c_uint | RECURSIVE;
        let set = if tree == -1 { -1 } else { set_attributes_at(tree, c"", flags, attributes) };
        if set == -1 { -1 } else { tree }
    }
}

/// Likewise, with these flags besides.
unsafe fn clone_with(dir: c_int, path: &CStr, more: c_uint) -> c_int {
    const CLONE: c_uint = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = CLONE | more | (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as c_uint;
    // SAFETY: the string ends with a null byte.
    unsafe {
        let tree = result(libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags));
        if tree == -1 { -1 } else { harmless(tree) }
    }
}

/// `tree`, without setuid programs and devices.
unsafe fn harmless(tree: c_int) -> c_int {
    // SAFETY: plain system calls.
    unsafe {
        let attributes = NO_SETUID | libc::MOUNT_ATTR_NODEV;
        let set = set_attributes_at(tree, c"", libc::AT_EMPTY_PATH as c_uint, attributes);
        if set == -1 { -1 } else { tree }
    }
}

/// Attaches a tree at `path` below `dir`, or at `dir` itself.
unsafe fn move_to(tree: c_int, dir: c_int, path: &CStr) -> c_int {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: the strings end with a null byte.
    unsafe {
        let (nothing, to): (*const c_char, _) = (c"".as_ptr(), path.as_ptr());
        result(libc::syscall(libc::SYS_move_mount, tree, nothing, dir, to, flags))
    }
}

/// Opens what lies below `dir`, through no symlink.
unsafe fn open_beneath(dir: c_int, path: &CStr, flags: c_int) -> c_int {
    // SAFETY: the structure holds numbers alone, and outlives the call.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (flags | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
        let size = size_of::<libc::open_how>();
        result(libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size))
    }
}

fn result(returned: c_long) -> c_int {
    c_int::try_from(returned).unwrap_or(-1)
}

/// Those of `paths` that are there and in no other of them. What is there and cannot be found is an error, as it would not be
/// hidden.
pub(super) fn outermost(paths: impl Iterator<Item = PathBuf>) -> io::Result<Vec<PathBuf>> {
    use io::ErrorKind::{NotFound, PermissionDenied};
    let found = paths.filter_map(|path| match path.canonicalize() {
        // Where we may not go, nor may a step.
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => None,
        found => Some(found),
    });
    let mut all = found.collect::<io::Result<Vec<_>>>()?;
    all.sort();
    all.dedup_by(|later, earlier| later.starts_with(earlier));
    all.retain(|path| path.parent().is_some());
    Ok(all)
}

fn string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
