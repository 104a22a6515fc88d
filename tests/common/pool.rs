//! ZFS pools for the stores of tests: datasets on real ZFS where there is some (see `tests/zfs-vm`), else pools of the stand-in for the
//! command `zfs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Names a real dataset that tests may do with as they like.
const REAL: &str = "OBUILD_TEST_ZFS";

/// Whether the stores of this test program are pools: those of the programs whose names begin with `zfs`.
pub fn wanted() -> bool {
    env!("CARGO_CRATE_NAME").starts_with("zfs")
}

/// A pool, or a dataset that stands for one.
pub struct Pool {
    pub name: String,
    /// Where it is mounted.
    pub root: PathBuf,
    pub program: PathBuf,
    /// Where the stand-in keeps it.
    state: Option<PathBuf>,
    made: bool,
}

impl Pool {
    /// A new one for the world in `dir`, in which the stand-in is mounted at `store`.
    pub fn new(dir: &Path) -> Option<Self> {
        let real = std::env::var(REAL)
            .ok()
            .map(|parent| Path::new("/").join(parent).join(dir.file_name().unwrap()));
        if real.is_none() {
            let program = stand_in()?;
            let (state, bin) = (dir.join("state"), dir.join("bin"));
            fs::create_dir(&state).unwrap();
            fs::create_dir(&bin).unwrap();
            let text =
                format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", program.display(), state.display());
            fs::write(bin.join("zfs"), text).unwrap();
            fs::set_permissions(bin.join("zfs"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut made = Self::at(&real.unwrap_or_else(|| dir.join("store")));
        made.made = true;
        match made.state {
            None => made.zfs("create POOL"),
            Some(_) => made.zfs(&format!("make POOL {}", made.root.display())),
        };
        Some(made)
    }

    /// The pool of the store in the directory `root`, if it is in one.
    pub fn of(root: &Path) -> Option<Self> {
        let stand_in = root.with_file_name("state").is_dir();
        (wanted() && (stand_in || std::env::var_os(REAL).is_some())).then(|| Self::at(root))
    }

    /// The one that is mounted at `root`.
    fn at(root: &Path) -> Self {
        let state = root.with_file_name("state");
        let (name, program, state) = match state.is_dir() {
            true => (root.file_name().unwrap().into(), root.with_file_name("bin/zfs"), Some(state)),
            false => (root.strip_prefix("/").unwrap().to_owned(), "zfs".into(), None),
        };
        let name = name.to_str().unwrap().to_owned();
        Self { name, root: root.to_owned(), program, state, made: false }
    }

    pub fn is_real(&self) -> bool {
        self.state.is_none()
    }

    /// As a user names it.
    pub fn url(&self) -> String {
        format!("zfs:{}", if self.is_real() { &self.name } else { self.root.to_str().unwrap() })
    }

    /// Runs `zfs`, which must succeed.
    pub fn zfs(&self, line: &str) -> String {
        let output = self.try_zfs(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "zfs {line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_zfs(&self, line: &str) -> Output {
        let line = line.replace("POOL", &self.name);
        Command::new(&self.program).args(line.split_whitespace()).output().unwrap()
    }

    /// Names of the datasets and snapshots in the pool's dataset `group`.
    pub fn names(&self, group: &str) -> Vec<String> {
        let listed = self.zfs(&format!("list -Hp -r -t filesystem,snapshot -o name POOL/{group}"));
        let prefix = format!("{}/{group}/", self.name);
        listed.lines().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// What is in the hands of processes or waits to be destroyed.
    pub fn leftovers(&self) -> Vec<String> {
        let groups = ["result-tmp", "cache-tmp", "trash"].map(|group| self.names(group));
        [groups.concat(), self.unfinished()].concat()
    }

    /// Results without a snapshot.
    pub fn unfinished(&self) -> Vec<String> {
        let names = self.names("result");
        let is_whole = |name: &String| names.contains(&format!("{name}@snap"));
        names.iter().filter(|name| !name.contains('@') && !is_whole(name)).cloned().collect()
    }

    /// The directories that hold the tree and the log of every result, shown to `each`.
    pub fn results(&self, mut each: impl FnMut(String, &Path, &Path)) {
        let names = self.names("result");
        for id in names.iter().filter_map(|name| name.strip_suffix("@snap")) {
            if id.contains('/') {
                continue;
            }
            let home = names.contains(&format!("{id}/home@snap"));
            let own = self.show(&format!("result/{id}"));
            let tree = match home {
                true => self.show(&format!("result/{id}/home")),
                false => Shown { dir: own.dir.join("rootfs"), mounted: None },
            };
            each(id.to_owned(), &tree.dir, &own.dir);
        }
    }

    /// The snapshot of a dataset, to be read.
    fn show(&self, dataset: &str) -> Shown {
        let snapshot = format!("{}/{dataset}@snap", self.name);
        if let Some(state) = &self.state {
            let dir = self.zfs(&format!("where {snapshot}"));
            return Shown { dir: state.join(dir.trim()), mounted: None };
        }
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "zfs", "-o", "ro", &snapshot]).arg(dir.path());
        assert!(mount.status().unwrap().success(), "{snapshot}");
        Shown { dir: dir.path().to_owned(), mounted: Some(dir) }
    }
}

/// A snapshot that is shown as long as this lives.
struct Shown {
    dir: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.mounted.is_some() {
            let _ = Command::new("umount").arg(&self.dir).status();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The stand-in's goes with its directory.
        if self.made && self.is_real() {
            let destroy = || self.try_zfs("destroy -R -f POOL").status.success();
            if !(0..50).any(|_| destroy() || wait()) {
                super::tell(&format!("failed to destroy {}", self.name));
            }
        }
    }
}

fn wait() -> bool {
    std::thread::sleep(std::time::Duration::from_millis(50));
    false
}

/// The stand-in is built beside the tests when the whole workspace is.
fn stand_in() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_obuild")).with_file_name("examples/zfs-stand-in");
    if built.exists() {
        return Some(built);
    }
    super::skip(&format!(
        "`{}` is not built, so an rsync store is used; `cargo build --workspace --examples` does",
        built.display()
    ));
    None
}
