//! Pools to test on: real ones, where there is ZFS, and the stand-in's.

#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;
use store_zfs::{Options, Place, ZfsStore};

/// Names a real dataset that tests may do with as they like.
const REAL: &str = "OBUILD_TEST_ZFS";

/// How long anything may take, even on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// A pool for one test, which goes away with this.
pub(crate) struct TestPool {
    pub(crate) place: Place,
    pub(crate) program: PathBuf,
    /// Mounted for it.
    volume: Option<PathBuf>,
    /// The stand-in's state, or nothing for real ZFS.
    _temporary: Option<tempfile::TempDir>,
}

impl AsRef<Path> for TestPool {
    fn as_ref(&self) -> &Path {
        &self.place.root
    }
}

impl TestPool {
    /// Runs `zfs`, which must succeed.
    pub(crate) fn zfs(&self, line: &str) -> String {
        let output = self.try_zfs(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "zfs {line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_zfs(&self, line: &str) -> Output {
        let line = line.replace("POOL", &self.place.pool);
        let run = || Command::new(&self.program).args(line.split_whitespace()).output();
        loop {
            match run() {
                // Another test's child may still have the stand-in's script open, as this process wrote it.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => wait(),
                output => return output.unwrap(),
            };
        }
    }

    /// Names of what lies in the pool's dataset `group`, which is empty or begins with a slash.
    pub(crate) fn names(&self, group: &str) -> Vec<String> {
        let listed = self.zfs(&format!("list -Hp -r -t filesystem,snapshot -o name POOL{group}"));
        let prefix = format!("{}{group}/", self.place.pool);
        listed.lines().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// How many datasets the pool's own is in.
    pub(crate) fn depth(&self) -> usize {
        self.place.pool.matches('/').count()
    }

    pub(crate) fn is_real(&self) -> bool {
        self._temporary.is_none()
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        if let Some(volume) = &self.volume {
            let unmount = || Command::new("umount").arg(volume).status();
            if !(0..100).any(|_| unmount().is_ok_and(|status| status.success()) || wait()) {
                eprintln!("failed to unmount {}", volume.display());
            }
        }
        // The stand-in's goes with its directory.
        if self.is_real()
            && !(0..50).any(|_| self.try_zfs("destroy -R -f POOL").status.success() || wait())
        {
            eprintln!("failed to destroy {}", self.place.pool);
        }
    }
}

fn wait() -> bool {
    std::thread::sleep(Duration::from_millis(50));
    false
}

/// A dataset of its own on real ZFS.
pub(crate) fn real() -> Option<TestPool> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Ok(parent) = std::env::var(REAL) else {
        eprintln!("SKIP: there is no ZFS here; `tests/zfs-vm/suite` runs these tests on it");
        return None;
    };
    let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let pool = format!("{parent}/{name}");
    let place = Place { root: Path::new("/").join(&pool), pool };
    let pool = TestPool { place, program: "zfs".into(), volume: None, _temporary: None };
    pool.zfs("create POOL");
    Some(pool)
}

/// The stand-in's program, which is built with the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let dir = tests.parent().unwrap();
    let built = dir.with_file_name("examples").join("zfs-stand-in");
    if built.exists() { built } else { dir.join("zfs-stand-in") }
}

/// A pool of the stand-in.
pub(crate) fn stand_in() -> Option<TestPool> {
    stand_in_in(tempfile::tempdir().unwrap(), None)
}

/// Likewise, in a temporary directory with a volume mounted at `volume`.
fn stand_in_in(temporary: tempfile::TempDir, volume: Option<PathBuf>) -> Option<TestPool> {
    let program = program();
    if !program.exists() {
        eprintln!("SKIP: `{}` is not built; `cargo build --examples` does", program.display());
        return None;
    }
    let dir = volume.clone().unwrap_or_else(|| temporary.path().to_owned());
    let (state, zfs) = (dir.join("state"), dir.join("zfs"));
    fs::create_dir(&state).unwrap();
    let text = format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", program.display(), state.display());
    fs::write(&zfs, text).unwrap();
    fs::set_permissions(&zfs, Permissions::from_mode(0o755)).unwrap();
    let place = Place { pool: "tank".to_owned(), root: dir.join("tank") };
    let pool = TestPool { place, program: zfs, volume, _temporary: Some(temporary) };
    let root = pool.place.root.to_str().unwrap().to_owned();
    pool.zfs(&format!("make tank {root}"));
    Some(pool)
}

/// One with little room.
pub(crate) fn small_stand_in() -> Option<TestPool> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can mount a small volume");
        return None;
    }
    let temporary = tempfile::tempdir().unwrap();
    let (image, dir) = (temporary.path().join("image"), temporary.path().join("volume"));
    fs::File::create(&image).unwrap().set_len(40 << 20).unwrap();
    fs::create_dir(&dir).unwrap();
    let run = |program: &str, words: &[&str]| {
        Command::new(program).args(words).output().is_ok_and(|output| output.status.success())
    };
    let (image, at) = (image.to_str().unwrap(), dir.to_str().unwrap());
    if !run("mkfs.ext4", &["-q", "-m", "0", image]) || !run("mount", &["-o", "loop", image, at]) {
        eprintln!("SKIP: there is no mkfs.ext4, or the kernel mounts no file");
        return None;
    }
    stand_in_in(temporary, Some(dir))
}

/// A dataset on real ZFS with little room.
pub(crate) fn small_real() -> Option<TestPool> {
    let pool = real()?;
    pool.zfs("set quota=24M POOL");
    Some(pool)
}

/// Opens the store in the pool that is mounted at `dir`, which the kernel mounts if it can.
pub(crate) fn open(dir: &Path) -> ZfsStore {
    try_open(dir).unwrap()
}

pub(crate) fn try_open(dir: &Path) -> Result<ZfsStore, StoreError> {
    open_with(dir, false)
}

/// Likewise; everything is mounted by `zfs mount`.
pub(crate) fn open_by_command(dir: &Path) -> ZfsStore {
    open_with(dir, true).unwrap()
}

fn open_with(dir: &Path, mount_by_command: bool) -> Result<ZfsStore, StoreError> {
    let (pool, program) = at(dir);
    let place = Place { pool, root: dir.to_owned() };
    let options = Options { program: program.into(), mount_by_command, ..Options::default() };
    ZfsStore::open(place, &options)
}

/// The name of the pool that is mounted at `dir`, and its program.
fn at(dir: &Path) -> (String, PathBuf) {
    let stand_in = dir.with_file_name("zfs");
    match stand_in.is_file() {
        true => ("tank".to_owned(), stand_in),
        false => (dir.strip_prefix("/").unwrap().to_str().unwrap().to_owned(), "zfs".into()),
    }
}

/// What is in the hands of processes or waits to be destroyed in the pool that is mounted at `dir`.
pub(crate) fn leftovers(dir: &Path) -> Vec<String> {
    let (pool, program) = at(dir);
    let groups = ["result-tmp", "cache-tmp", "trash"].map(|group| format!("{pool}/{group}"));
    let mut list = Command::new(program);
    let output = list.args(["list", "-Hp", "-r", "-d", "1", "-o", "name"]).args(&groups).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    names
        .lines()
        .filter(|name| !groups.iter().any(|group| group == name))
        .map(str::to_owned)
        .collect()
}

/// The same, and results without a snapshot.
pub(crate) fn unfinished(dir: &Path) -> Vec<String> {
    let (pool, program) = at(dir);
    let results = format!("{pool}/result");
    let wanted = ["list", "-Hp", "-r", "-t", "filesystem,snapshot", "-o", "name", &results];
    let output = Command::new(program).args(wanted).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = listed.lines().skip(1).collect();
    let is_whole = |name: &str| names.contains(&format!("{name}@snap").as_str());
    let left = names.iter().filter(|name| !name.contains('@') && !is_whole(name));
    leftovers(dir).into_iter().chain(left.map(|name| (*name).to_owned())).collect()
}

pub(crate) fn id(text: &str) -> ResultId {
    ResultId::of(text.as_bytes())
}
