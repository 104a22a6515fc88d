//! A stage for tests: trees, a scoreboard, and a server in a process of its own, all gone at the end.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "each test program uses a part of it, and prints what it skips"
)]

pub mod plan;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Two users that no system has given a name.
pub const ANN: u32 = 1_200_001;
pub const BEN: u32 = 1_200_002;
/// A user without an entry.
pub const EVE: u32 = 1_200_009;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long random tests are to go on, if longer than usual: `USRLOCAL_FS_SECONDS`.
pub fn long() -> Option<Duration> {
    let seconds = std::env::var("USRLOCAL_FS_SECONDS").ok()?;
    Some(Duration::from_secs_f64(seconds.parse().unwrap()))
}

/// Whether mounts can be made here; says so if not.
pub fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let fuse = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !root || !fuse {
        eprintln!("SKIP: mounting needs root and /dev/fuse");
    }
    root && fuse
}

/// Trees of two users, and a mount point with something below it.
pub struct Stage {
    pub dir: TempDir,
    server: Option<Child>,
}

impl Stage {
    /// Everything but the server.
    pub fn prepare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let stage = Self { dir, server: None };
        for name in ["scoreboard", "mnt"] {
            std::fs::create_dir(stage.at(name)).unwrap();
        }
        std::fs::write(stage.at("mnt/underneath"), "was here before").unwrap();
        for user in [ANN, BEN] {
            stage.make_tree(&user.to_string(), user);
            stage.link(user, &user.to_string());
        }
        stage
    }

    /// Everything, with the server started with `options`.
    pub fn with(options: &[&str]) -> Self {
        let mut stage = Self::prepare();
        stage.serve(options);
        stage
    }

    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A path in the mount.
    pub fn mnt(&self, path: &str) -> PathBuf {
        self.at("mnt").join(path)
    }

    /// A path in the directory that a tree shows.
    pub fn tree(&self, name: impl ToString, path: &str) -> PathBuf {
        self.at(&format!("tree-{}/local", name.to_string())).join(path)
    }

    pub fn make_tree(&self, name: &str, owner: u32) {
        let local = self.tree(name, "");
        std::fs::create_dir_all(&local).unwrap();
        chown(&local, Some(owner), Some(owner)).unwrap();
    }

    /// Points `user` at a tree, atomically.
    pub fn link(&self, user: u32, tree: &str) {
        let fresh = self.at(&format!("scoreboard/.{user}"));
        symlink(self.at(&format!("tree-{tree}")), &fresh).unwrap();
        std::fs::rename(fresh, self.at(&format!("scoreboard/{user}"))).unwrap();
    }

    pub fn serve(&mut self, options: &[&str]) {
        self.serve_with_files(None, options);
    }

    /// Starts the server with a limit of open files.
    pub fn serve_with_files(&mut self, limit: Option<libc::rlim_t>, options: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usrlocal-fs"));
        command
            .arg("mount")
            .arg("--scoreboard")
            .arg(self.at("scoreboard"))
            .args(options)
            .arg(self.at("mnt"));
        let set_limit = move || match limit {
            Some(most) => nix::sys::resource::setrlimit(
                nix::sys::resource::Resource::RLIMIT_NOFILE,
                most,
                most,
            )
            .map_err(Into::into),
            None => Ok(()),
        };
        // SAFETY: one system call.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, set_limit) };
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        self.server = Some(child);
        let mnt = self.at("mnt");
        wait_for("the mount", || mounted(&mnt));
    }

    pub fn server(&self) -> &Child {
        self.server.as_ref().unwrap()
    }

    /// Sends a signal to the server and waits for its end.
    pub fn signal(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let mut child = self.server.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait().unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usrlocal-fs"));
        command.args(arguments).arg(self.at("mnt")).output().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&child),
                rustix::process::Signal::TERM,
            );
            let begun = Instant::now();
            while child.try_wait().is_ok_and(|status| status.is_none())
                && begun.elapsed() < PATIENCE
            {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let mnt = CString::new(self.at("mnt").as_os_str().as_bytes()).unwrap();
        // SAFETY: a system call with a C string and flags; nothing is mounted there any more unless a test failed.
        while unsafe { libc::umount2(mnt.as_ptr(), libc::MNT_DETACH) } == 0 {}
    }
}

/// Whether something is mounted at `path`, asking nobody but the kernel's table.
pub fn mounted(path: &Path) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}

/// Looks again every few milliseconds until it is so.
pub fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what} in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `work` in a thread that has the file rights of a user and of its groups.
pub fn as_user<T: Send>(user: u32, work: impl FnOnce() -> T + Send) -> T {
    in_groups(user, &[], work)
}

/// The same with more groups.
pub fn in_groups<T: Send>(user: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let groups: Vec<_> = groups.iter().map(|group| rustix::fs::Gid::from_raw(*group)).collect();
    let run = || {
        rustix::thread::set_thread_groups(&groups).unwrap();
        // SAFETY: plain numbers, and they concern this thread alone.
        unsafe {
            libc::setfsgid(user);
            libc::setfsuid(user);
        }
        work()
    };
    thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The number of the error, or 0.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// Something mounted, until this is dropped.
pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let path = CString::new(self.0.as_os_str().as_bytes()).unwrap();
        // SAFETY: a system call with a C string and flags.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Runs `mount(8)` for `at`; none, and says so, where that cannot be.
pub fn mount(arguments: &[&str], at: &Path) -> Option<Unmount> {
    let done = Command::new("mount").args(arguments).arg(at).output();
    if !done.is_ok_and(|done| done.status.success()) {
        eprintln!("SKIP: `mount {}` does not work here", arguments.join(" "));
        return None;
    }
    Some(Unmount(at.to_owned()))
}

/// An overlay filesystem, which has no file handles, for the tree of `user`.
pub fn overlay(stage: &Stage, user: u32) -> Option<Unmount> {
    let parts = ["lower", "upper", "work"].map(|part| stage.at(part));
    for part in &parts {
        std::fs::create_dir(part).unwrap();
    }
    let [lower, upper, work] = parts.map(|part| part.display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let tree = stage.at(&format!("tree-{user}"));
    let mounted = mount(&["-t", "overlay", "overlay", "-o", &options], &tree)?;
    stage.make_tree(&user.to_string(), user);
    Some(mounted)
}
