//! A user number for each test, so that tests that run at once never meet.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use sandbox_macos::{Account, BuildUserSandbox, Config};

/// What the names of build users in tests begin with.
pub const PREFIX: &str = "obtest";

const FIRST: u32 = 41_000;
const COUNT: u32 = 500;

/// A number that no other test has, in this process or another. Dropping it removes its user.
pub struct UidLease {
    number: u32,
    _lock: Flock<File>,
}

impl UidLease {
    pub fn take() -> Self {
        let dir = std::env::temp_dir().join(format!("obuild-test-uids-{}", geteuid()));
        fs::create_dir_all(&dir).unwrap();
        for number in FIRST..FIRST + COUNT {
            let path = dir.join(number.to_string());
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Self { number, _lock: lock };
            }
        }
        panic!("{COUNT} tests at once");
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    fn name(&self) -> String {
        format!("{PREFIX}{}", self.number)
    }

    /// What runs as this user; the dead that nobody has buried yet do not.
    pub fn processes(&self) -> Vec<String> {
        let output =
            Command::new("ps").args(["-A", "-o", "uid=,stat=,pid=,args="]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = self.number.to_string();
        let ours = |line: &&str| {
            let mut words = line.split_whitespace();
            words.next() == Some(&number) && !words.next().unwrap_or_default().starts_with('Z')
        };
        text.lines().filter(ours).map(str::to_owned).collect()
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        if !geteuid().is_root() {
            return;
        }
        let users = vec![Account { name: self.name(), uid: self.number }];
        let config = Config { users, ..Config::new("/nowhere") };
        if let Err(error) = BuildUserSandbox::new(config).and_then(|made| made.remove_users()) {
            let _ = writeln!(std::io::stderr(), "failed to remove `{}`: {error}", self.name());
        }
    }
}
