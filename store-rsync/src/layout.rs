//! What lies where in a store.

use std::fs::{self, File, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;

/// The bit of directories like `/tmp`, which are everybody's.
const STICKY: u32 = 0o1000;

/// The newest format of [`Layout`] this program knows.
pub(crate) const FORMAT: u32 = 1;

/// What is in every store that OBuilder made.
const OBUILDERS: [&str; 5] = ["state", "result", "result-tmp", "cache", "cache-tmp"];

/// What is in ours besides.
const OURS: [&str; 2] = ["failed", "warm"];

/// What systems put into the root of a volume that is otherwise empty.
const VOLUMES: [&str; 6] =
    ["lost+found", ".DS_Store", ".Spotlight-V100", ".TemporaryItems", ".Trashes", ".fseventsd"];

/// The directories of a store.
///
/// ```text
/// ROOT/                 0711, so that build users reach the home that the sandbox makes in it
///   state/              the index; obuild-format holds the number of this layout; obuild-lock is locked shared while a
///                       private directory is made, exclusively while those that killed processes left are swept
///   result/ID/          finished results; locked shared while pinned, exclusively while deleted
///   result-tmp/ID-UNIQUE results being made, each locked shared by its maker; trash-UNIQUE: what is being deleted
///   warm/ID-UNIQUE/     a tree (rootfs) that equals the result ID, with its index (obuild-index); locked while somebody
///                       looks at it, and renamed to result-tmp before anybody may change it
///   failed/ID/          kept trees of failed steps, locked as results are
///   cache/NAME/         newest versions of caches; every byte outside A-Za-z0-9._- is written %xx
///   cache-tmp/UNIQUE-NAME leased copies, each locked shared by its holder
/// ```
///
/// UNIQUE is PID-RANDOM-N. OBuilder's own but for `failed`, `warm`, `obuild-format` and `obuild-lock`, which it leaves alone.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Tells this opening of the store from those of other processes with the same number, which containers have.
    random: u32,
    next: AtomicU64,
}

impl Layout {
    /// Opens the store at `root`, or makes an empty one.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        match fs::metadata(root) {
            Ok(meta) if !meta.is_dir() => return Err(not_a_directory(root)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => create_root(root)?,
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(not_a_directory(root));
            }
            Err(error) => return Err(failed("open the store at", root, error)),
        }
        let root = fs::canonicalize(root).map_err(|e| failed("open the store at", root, e))?;
        refuse_strangers(&root)?;
        if may_be_closed(&root) {
            narrow(&root, 0o711)?;
        }
        let layout = Self { root, random: random(), next: AtomicU64::new(0) };
        for name in OBUILDERS.iter().chain(&OURS) {
            private_dir(&layout.root.join(name))?;
        }
        layout.check_format()?;
        Ok(layout)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let path = self.state().join("obuild-format");
        let text = match fs::read_to_string(&path) {
            // An earlier version did not wait for the disk, and a power cut left nothing in the file.
            Ok(text) if text.is_empty() => return self.write_format(&path),
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.write_format(&path),
            Err(error) => return Err(failed("read", &path, error)),
        };
        let found = text.trim().parse::<u32>().map_err(|e| StoreError::Failed {
            action: format!("read the store's format from `{}`", path.display()),
            source: e.into(),
        })?;
        if found > FORMAT {
            let location = self.location();
            return Err(StoreError::Newer { location, found, known: FORMAT });
        }
        Ok(())
    }

    fn write_format(&self, path: &Path) -> Result<(), StoreError> {
        let new = self.state().join(format!("obuild-format-{}", self.unique()));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(format!("{FORMAT}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().map_err(|e| failed("write", path, e))
    }

    pub(crate) fn location(&self) -> String {
        location(&self.root)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("state/obuild-lock")
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.root.join("result")
    }

    pub(crate) fn result(&self, id: &ResultId) -> PathBuf {
        self.results().join(id.as_str())
    }

    pub(crate) fn all_failed(&self) -> PathBuf {
        self.root.join("failed")
    }

    pub(crate) fn failed(&self, id: &ResultId) -> PathBuf {
        self.all_failed().join(id.as_str())
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("result-tmp")
    }

    pub(crate) fn warm(&self) -> PathBuf {
        self.root.join("warm")
    }

    pub(crate) fn caches(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn cache_tmp(&self) -> PathBuf {
        self.root.join("cache-tmp")
    }

    /// A name that no other call has had, and hardly one of another process.
    pub(crate) fn unique(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{:08x}-{number}", std::process::id(), self.random)
    }

    /// Moves the directory `path` to where nothing leads to it any more; returns that place.
    pub(crate) fn move_to_trash(&self, path: &Path) -> io::Result<PathBuf> {
        loop {
            let to = self.tmp().join(format!("trash-{}", self.unique()));
            match fs::rename(path, &to) {
                Ok(()) => return Ok(to),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a rename met a directory that is there already.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty)
}

/// A number to make names unique; nobody relies on it not being guessed.
fn random() -> u32 {
    // Every state is seeded by the operating system.
    (RandomState::new().hash_one(()) >> 32) as u32
}

/// The error of failing to `action` the file or directory at `path`.
pub(crate) fn failed(action: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::io(format!("{action} `{}`", path.display()), source)
}

/// The error of an operation on a tree.
pub(crate) fn tree_failed(error: tree_copy::Error) -> StoreError {
    let (action, source) = error.into_parts();
    StoreError::io(action, source)
}

fn not_a_directory(root: &Path) -> StoreError {
    failed("open the store at", root, ErrorKind::NotADirectory.into())
}

fn create_root(root: &Path) -> Result<(), StoreError> {
    let made = fs::create_dir_all(root)
        .and_then(|()| fs::set_permissions(root, Permissions::from_mode(0o711)));
    made.map_err(|e| match e.kind() {
        ErrorKind::NotADirectory => not_a_directory(root),
        _ => failed("create the store at", root, e),
    })
}

fn location(root: &Path) -> String {
    format!("rsync:{}", root.display())
}

/// Refuses a directory with other things in it: a store sweeps what it takes for its own, and removes results.
fn refuse_strangers(root: &Path) -> Result<(), StoreError> {
    let is_store = root.join("state/obuild-format").exists()
        || OBUILDERS.iter().all(|name| root.join(name).is_dir());
    if is_store {
        return Ok(());
    }
    let known = [&OBUILDERS[..], &OURS, &VOLUMES].concat();
    for entry in fs::read_dir(root).map_err(|e| failed("list", root, e))? {
        let name = entry.map_err(|e| failed("list", root, e))?.file_name();
        // Where no other place is configured, homes lie in the store, and something of them may outlive it.
        let of_home = name == "home" || name.as_encoded_bytes().starts_with(b"home.");
        if !of_home && !known.iter().any(|known| name == *known) {
            let found = name.to_string_lossy().into_owned();
            return Err(StoreError::Foreign { location: location(root), found });
        }
    }
    Ok(())
}

/// Takes from the directory `path`, if it is ours, all permissions but those in `most`.
fn narrow(path: &Path, most: u32) -> Result<(), StoreError> {
    let there = fs::metadata(path).map_err(|e| failed("open", path, e))?;
    let mode = there.permissions().mode() & 0o7777;
    let ours = there.uid() == rustix::process::geteuid().as_raw();
    if !ours || mode & 0o777 & !most == 0 {
        return Ok(());
    }
    let narrowed = Permissions::from_mode(mode & (most | !0o777));
    fs::set_permissions(path, narrowed).map_err(|e| failed("close to others", path, e))
}

/// Whether `root` is a store of OBuilder's that this program meets for the first time. Any other directory that somebody
/// named keeps its mode: closing `/srv` or `/tmp` would lock others out of what is theirs.
fn may_be_closed(root: &Path) -> bool {
    let state = root.join("state");
    let shared = fs::metadata(root).is_ok_and(|meta| meta.mode() & STICKY != 0);
    state.is_dir() && !state.join("obuild-format").exists() && !shared && root.parent().is_some()
}

fn private_dir(path: &Path) -> Result<(), StoreError> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o700)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let there = fs::metadata(path).map_err(|e| failed("open", path, e))?;
            if !there.is_dir() {
                return Err(failed("open", path, ErrorKind::NotADirectory.into()));
            }
            // A store that OBuilder made is open to the steps that run as other users.
            narrow(path, 0o700)?;
            rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
                .map_err(io::Error::from)
        }
        Err(error) => Err(error),
    }
    .map_err(|e| failed("create", path, e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_an_earlier_process_of_this_number_left_in_the_trash_is_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let (pid, random) = (std::process::id(), layout.random);
        let next = layout.next.load(Ordering::Relaxed);
        for number in next..next + 2 {
            let taken = format!("trash-{pid}-{random:08x}-{number}/file");
            fs::create_dir_all(layout.tmp().join(taken)).unwrap();
        }
        let dead = layout.tmp().join("dead");
        fs::create_dir(&dead).unwrap();
        let free = format!("trash-{pid}-{random:08x}-{}", next + 2);
        assert_eq!(layout.move_to_trash(&dead).unwrap(), layout.tmp().join(free));
        assert!(!dead.exists());
        let missing = layout.move_to_trash(&dead).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_ne!(layout.random, Layout::open(dir.path()).unwrap().random);
    }
}
