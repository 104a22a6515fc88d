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

/// Numbers that no other test has, in this process or another. Dropping them removes their users.
pub struct UidLease {
    first: u32,
    locks: Vec<Flock<File>>,
}

impl UidLease {
    /// Takes as many numbers as wanted, one after the other.
    pub fn take(count: u32) -> Self {
        let dir = std::env::temp_dir().join(format!("obuild-test-uids-{}", geteuid()));
        fs::create_dir_all(&dir).unwrap();
        let lock = |number: u32| {
            let path = dir.join(number.to_string());
            let options = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            Flock::lock(options.unwrap(), FlockArg::LockExclusiveNonblock).ok()
        };
        for first in FIRST..FIRST + COUNT {
            if let Some(locks) = (first..first + count).map(lock).collect() {
                return Self { first, locks };
            }
        }
        panic!("{COUNT} tests at once");
    }

    /// The first number.
    pub fn number(&self) -> u32 {
        self.first
    }

    fn accounts(&self) -> Vec<Account> {
        Account::several(PREFIX, self.first, self.locks.len())
    }

    /// What runs as these users; the dead that nobody has buried yet do not. Without root nothing does, but tests that root runs
    /// meanwhile may have users of the same numbers.
    pub fn processes(&self) -> Vec<String> {
        if !geteuid().is_root() {
            return Vec::new();
        }
        let output =
            Command::new("ps").args(["-A", "-o", "uid=,stat=,pid=,args="]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<_> = self.accounts().iter().map(|user| user.uid.to_string()).collect();
        let ours = |line: &&str| {
            let mut words = line.split_whitespace();
            let theirs = words.next().is_some_and(|uid| numbers.iter().any(|ours| ours == uid));
            theirs && !words.next().unwrap_or_default().starts_with('Z')
        };
        text.lines().filter(ours).map(str::to_owned).collect()
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        if !geteuid().is_root() {
            return;
        }
        let config = Config { users: self.accounts(), ..Config::new("/nowhere") };
        if let Err(error) =
            BuildUserSandbox::new(config).and_then(|made| made.remove_users(&|_| {}))
        {
            let _ = writeln!(std::io::stderr(), "failed to remove build users: {error}");
        }
    }
}
