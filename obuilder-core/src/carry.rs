//! Taking a store's directories to where a step sees them.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Takes a directory that a store lent out (the `rootfs` of a pending result, a cache's lease) to another place, and back.
///
/// Nobody else uses either path meanwhile, and no process uses the directory.
pub trait Carrier: Debug + Send + Sync {
    /// Has the directory `dir` at `to`: a directory, which is hidden meanwhile, if this mounts, else nothing. What is at `dir`
    /// meanwhile is nobody's business.
    fn carry(&self, dir: &Path, to: &Path) -> io::Result<()>;

    /// Has it at `dir` again, and at `from` what was there before.
    fn bring_back(&self, from: &Path, dir: &Path) -> io::Result<()>;

    /// Whether what is carried is mounted at its place, rather than renamed there.
    fn mounts(&self) -> bool;

    /// Waits until what a killed process has begun to carry has come to rest: only then can what it left be cleared away.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    /// Where in the tree that was carried from `dir` something else of the store's is mounted, which is brought back with it.
    fn inside(&self, _dir: &Path) -> Option<&'static str> {
        None
    }
}

/// The way of a store.
#[derive(Debug, Clone)]
pub struct Carry(Arc<dyn Carrier>);

impl Carry {
    /// That of `carrier`.
    pub fn new(carrier: impl Carrier + 'static) -> Self {
        Self(Arc::new(carrier))
    }

    /// Has the directory `dir` at `to`, where nothing is or an empty directory, whichever way that is done.
    pub fn away(&self, dir: &Path, to: &Path) -> io::Result<()> {
        if !self.mounts() {
            return self.carry(dir, to);
        }
        // Whoever was killed may have made it and not used it; it may be another user's.
        match fs::remove_dir(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(to)?,
        }
        self.carry(dir, to).inspect_err(|_| {
            // It is empty, and would be in the way of the next.
            let _ = fs::remove_dir(to);
        })
    }

    /// Has it at `dir` again, and nothing at `from`.
    pub fn home(&self, from: &Path, dir: &Path) -> io::Result<()> {
        self.bring_back(from, dir)?;
        if self.mounts() { fs::remove_dir(from) } else { Ok(()) }
    }
}

impl Default for Carry {
    /// Renaming, which never leaves a volume.
    fn default() -> Self {
        Self::new(Rename)
    }
}

impl PartialEq for Carry {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || !(self.mounts() || other.mounts())
    }
}

impl Eq for Carry {}

impl std::ops::Deref for Carry {
    type Target = dyn Carrier;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

#[derive(Debug)]
struct Rename;

impl Carrier for Rename {
    fn carry(&self, dir: &Path, to: &Path) -> io::Result<()> {
        fs::rename(dir, to)
    }

    fn bring_back(&self, from: &Path, dir: &Path) -> io::Result<()> {
        fs::rename(from, dir)
    }

    fn mounts(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Needs an empty directory, as a mount does.
    #[derive(Debug)]
    struct Mount;

    impl Carrier for Mount {
        fn carry(&self, _: &Path, to: &Path) -> io::Result<()> {
            fs::remove_dir(to).and_then(|()| fs::create_dir(to))
        }

        fn bring_back(&self, _: &Path, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn mounts(&self) -> bool {
            true
        }
    }

    #[test]
    fn an_empty_directory_is_in_nobodys_way_and_no_other_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (carry, to) = (Carry::new(Mount), dir.path().join("to"));
        for _ in 0..2 {
            carry.away(dir.path(), &to).unwrap();
            assert!(to.is_dir());
        }
        carry.home(&to, dir.path()).unwrap();
        assert!(!to.exists());
        fs::create_dir_all(to.join("theirs")).unwrap();
        carry.away(dir.path(), &to).unwrap_err();
        assert!(to.join("theirs").exists());
    }
}
