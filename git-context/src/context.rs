//! A job's own directory.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::checkout::make_dir;
use crate::error::{Error, Result};
use crate::lock::Lock;

/// A job's sources, in a directory that is the job's alone. Dropping it removes the directory.
///
/// ```text
/// RANDOM/src/    the sources, readable by everybody who knows the name
///        git/    what Git keeps of them while they are got; `src/.git` then, where it is wanted
/// ```
///
/// The directory is locked while this lives, so that what a killed process left can be told from what is in use.
#[derive(Debug)]
pub struct Context {
    dir: PathBuf,
    src: PathBuf,
    /// Gone once the directory is.
    lock: Option<Lock>,
}

impl Context {
    /// Makes an empty one in `contexts`.
    pub(crate) fn make(contexts: &Path) -> Result<Self> {
        let failed = || format!("make a directory in `{}`", contexts.display());
        loop {
            let mut builder = tempfile::Builder::new();
            let made = builder.prefix("job-").rand_bytes(16).tempdir_in(contexts);
            let dir = made.map_err(Error::io(failed()))?.keep();
            // A sweep may have come in between; then it has taken the directory away.
            let Some(lock) = Lock::directory(&dir).map_err(Error::io(failed()))? else { continue };
            let context = Self { src: dir.join("src"), dir, lock: Some(lock) };
            fs::set_permissions(&context.dir, fs::Permissions::from_mode(0o755))
                .map_err(Error::io(failed()))?;
            make_dir(&context.src)?;
            return Ok(context);
        }
    }

    /// Where the sources are.
    pub fn path(&self) -> &Path {
        &self.src
    }

    /// What Git keeps of them.
    pub(crate) fn git_dir(&self) -> PathBuf {
        self.dir.join("git")
    }

    pub(crate) fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(Lock::as_fd)
    }

    /// Moves what Git keeps to the sources, or removes it.
    pub(crate) fn finish(&self, include_git: bool) -> Result<()> {
        let git_dir = self.git_dir();
        if include_git && git_dir.exists() {
            let failed = || format!("move `{}` to the sources", git_dir.display());
            return fs::rename(&git_dir, self.src.join(".git")).map_err(Error::io(failed()));
        }
        remove(&git_dir)
    }

    /// Removes the directory and says what could not be removed.
    pub fn discard(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let Some(_lock) = self.lock.take() else { return Ok(()) };
        remove(&self.dir)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            warn(&error);
        }
    }
}

/// Removes what killed processes left in `contexts`; returns what that was. What cannot be removed stays for the next time.
pub(crate) fn sweep(contexts: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("list `{}`", contexts.display());
    let mut swept = Vec::new();
    for entry in fs::read_dir(contexts).map_err(Error::io(failed()))? {
        let path = entry.map_err(Error::io(failed()))?.path();
        let locking = || format!("lock `{}`", path.display());
        if let Some(_lock) = Lock::directory(&path).map_err(Error::io(locking()))? {
            match remove(&path) {
                Ok(()) => swept.push(path),
                Err(error) => warn(&error),
            }
        }
    }
    Ok(swept)
}

fn warn(error: &Error) {
    let why = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!("{error}: {}", why.unwrap_or_default());
}

fn remove(path: &Path) -> Result<()> {
    tree_copy::remove_tree(path).map_err(|error| Error::Failed {
        action: format!("remove `{}`", path.display()),
        source: error.into(),
    })
}
