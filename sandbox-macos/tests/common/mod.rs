//! Sandboxes with build users of their own, removed afterwards.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use obuilder_core::testing::sandbox::Fixture;
use rustix::fs::{FlockOperation, flock};
use sandbox_macos::{BuildUserSandbox, Config, remove_user};

/// Where the uids of tests begin.
const FIRST_UID: u32 = 61_000;

/// A build user that no other test has, removed when this is dropped.
pub(crate) struct TestUser {
    pub(crate) config: Config,
    _uid: File,
    _scratch: tempfile::TempDir,
}

impl TestUser {
    /// Takes a free uid and a fresh directory; makes nothing yet.
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
        let (uid, lock) = (FIRST_UID..).find_map(|uid| Some((uid, free(uid)?))).unwrap();
        let mut config = Config::new(scratch.path().join("home"));
        (config.uid, config.user_name) = (uid, format!("obt{uid}"));
        config.lock_dir = scratch.path().join("locks");
        Self { config, _uid: lock, _scratch: scratch }
    }

    pub(crate) fn sandbox(&self) -> BuildUserSandbox {
        BuildUserSandbox::new(self.config.clone()).unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.config.home.parent().unwrap()
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
            && let Err(error) = remove_user(&self.config)
        {
            eprintln!("failed to remove {}: {error}", self.config.user_name);
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

pub(crate) fn fixture() -> Option<Fixture> {
    let user = TestUser::new();
    let scratch = user.dir().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let root = user.config.home.clone();
    Some(Fixture { sandbox: Box::new(user.sandbox()), scratch, root, guard: Box::new(user) })
}
