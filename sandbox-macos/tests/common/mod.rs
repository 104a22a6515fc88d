//! Sandboxes with build users of their own, removed afterwards.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests use this")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use obuilder_core::testing::sandbox::Fixture;
use rustix::fs::{FlockOperation, flock};
use sandbox_macos::{Account, BuildUserSandbox, Config, Fuse, Isolation};

/// Where the uids of tests begin.
const FIRST_UID: u32 = 61_000;

/// Build users that no other test has, removed when this is dropped.
pub(crate) struct TestUser {
    pub(crate) config: Config,
    _uids: Vec<File>,
    scratch: tempfile::TempDir,
}

impl TestUser {
    /// Takes a free uid and a fresh directory; makes nothing yet.
    pub(crate) fn new() -> Self {
        Self::several(1)
    }

    /// As many of them as wanted, one for each slot.
    pub(crate) fn several(count: u32) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
        let all_free = |first| (first..first + count).map(free).collect::<Option<Vec<_>>>();
        let (uid, locks) = (FIRST_UID..).find_map(|uid| Some((uid, all_free(uid)?))).unwrap();
        let mut config = Config::new(scratch.path().join("home"));
        config.users = Account::several("obt", uid, count as usize);
        config.lock_dir = scratch.path().join("locks");
        Self { config, _uids: locks, scratch }
    }

    /// Likewise, with trees shown by a FUSE filesystem.
    pub(crate) fn by_fuse(count: u32) -> Self {
        let mut user = Self::several(count);
        let mount = user.dir().join("homes");
        user.config.prefixes = vec![(user.dir().join("prefix"), "local".into())];
        fs::create_dir(user.dir().join("prefix")).unwrap();
        user.config.home = mount.join("users/builder");
        user.config.fuse = Some(Fuse { mount, server: server() });
        user
    }

    /// Likewise, with steps that see what plain permissions let them see, as root's steps on a system without namespaces do.
    pub(crate) fn without_world() -> Self {
        let mut user = Self::new();
        user.config.isolation = Isolation::Users;
        user
    }

    pub(crate) fn sandbox(&self) -> BuildUserSandbox {
        BuildUserSandbox::new(self.config.clone()).unwrap()
    }

    /// A sandbox of this user, with room for trees. The user must outlive it.
    pub(crate) fn fixture(&self) -> Fixture {
        let scratch = self.dir().join("scratch");
        fs::create_dir_all(&scratch).unwrap();
        let (sandbox, root) = (Box::new(self.sandbox()), self.config.home.clone());
        Fixture { sandbox, scratch, root, guard: Box::new(()) }
    }

    /// What stands beside the home, but for the locks and what tests make.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| {
                !["scratch", "locks", "home.lock", "home.slots"].contains(&name.as_str())
            })
            .collect()
    }

    pub(crate) fn uid(&self) -> u32 {
        self.config.users[0].uid
    }

    pub(crate) fn name(&self) -> String {
        self.config.users[0].name.clone()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.scratch.path()
    }
}

/// Holds a uid for this test, if nobody else has it.
fn free(uid: u32) -> Option<File> {
    let path =
        std::env::temp_dir().join(format!("obuild-test-uid-{uid}-{}.lock", nix::unistd::geteuid()));
    let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}

impl Drop for TestUser {
    fn drop(&mut self) {
        if is_root()
            && let Err(error) = self.sandbox().remove_users(&|_| {})
        {
            eprintln!("failed to remove {}: {error}", self.name());
        }
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A visible skip where there is no root.
pub(crate) fn needs_root() -> bool {
    if !is_root() {
        eprintln!("SKIP: only root has build users");
    }
    is_root()
}

/// For the conformance suite.
pub(crate) fn fixture() -> Option<Fixture> {
    let user = TestUser::new();
    let fixture = user.fixture();
    Some(Fixture { guard: Box::new(user), ..fixture })
}

/// For the conformance suite, with steps that see what plain permissions let them see.
pub(crate) fn fixture_without_world() -> Option<Fixture> {
    let user = TestUser::without_world();
    let fixture = user.fixture();
    Some(Fixture { guard: Box::new(user), ..fixture })
}

/// Says to a test program that it is to serve trees, and which.
const SERVE: &str = "OBUILD_TEST_SERVE";

/// A command that runs this test program's test `serve` with its arguments.
pub(crate) fn server() -> Vec<std::ffi::OsString> {
    let script = format!("{SERVE}=\"$*\" exec \"$0\" --exact serve --nocapture >&2");
    let exe = std::env::current_exe().unwrap().into_os_string();
    vec!["/bin/sh".into(), "-c".into(), script.into(), exe]
}

/// What the test `serve` does: nothing, unless this program was started as a server.
pub(crate) fn serve() {
    let Ok(arguments) = std::env::var(SERVE) else { return };
    let words: Vec<_> = arguments.split(' ').collect();
    let shows = words[2..].chunks(3).map(|show| (show[1].into(), show[2].into()));
    sandbox_macos::serve_trees(Path::new(words[1]), &shows.collect::<Vec<_>>()).unwrap();
}

/// For the conformance suite, with two slots that are shown by FUSE.
pub(crate) fn fixture_by_fuse() -> Option<Fixture> {
    if !needs_root() || !has_fuse() {
        return None;
    }
    let user = TestUser::by_fuse(2);
    let fixture = user.fixture();
    Some(Fixture { guard: Box::new(user), ..fixture })
}

/// A visible skip where there is no FUSE.
pub(crate) fn has_fuse() -> bool {
    let there = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !there {
        eprintln!("SKIP: /dev/fuse cannot be opened");
    }
    there
}

/// For the conformance suite, with two slots.
pub(crate) fn fixture_of_two() -> Option<Fixture> {
    if !needs_root() {
        return None;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    Some(Fixture { guard: Box::new(user), ..fixture })
}

/// An error with all its sources.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
