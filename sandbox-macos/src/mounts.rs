//! Caches and secrets in the home, placed by `rename(2)` and taken out again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bstr::{BStr, ByteSlice};
use obuilder_core::error::SandboxError;
use obuilder_core::step::{Owner, Step};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::beneath::{Missing, Spot, give, spot};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::home::{not_renamed, private_dir};
use crate::tree;

/// What a step wants placed, with its targets found.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// The leased copy and where it goes, parents before children.
    pub(crate) caches: Vec<(&'a Path, PathBuf)>,
    /// Base name, value, and where in the home it is shown too.
    pub(crate) secrets: Vec<(&'a BStr, &'a BStr, Option<PathBuf>)>,
}

impl<'a> Wanted<'a> {
    /// Finds the targets of `step`, or says why one cannot be had.
    pub(crate) fn new(config: &Config, step: &'a Step) -> std::result::Result<Self, SandboxError> {
        let mut wanted = Self::default();
        let workdir = step.workdir.as_bstr();
        for cache in &step.caches {
            let found = config.target(cache.target.as_bstr(), workdir)?;
            let Some(target) = found.filter(|target| !target.as_os_str().is_empty()) else {
                return Err(outside(config, "cache", cache.target.as_bstr()));
            };
            if wanted.caches.iter().any(|(_, other)| *other == target) {
                return Err(twice("caches", cache.target.as_bstr()));
            }
            wanted.caches.push((&cache.dir, target));
        }
        wanted.caches.sort_by(|(_, a), (_, b)| a.cmp(b));
        for secret in &step.secrets {
            let target = secret.target.as_bstr();
            let name = file_name(target)?;
            if wanted.secrets.iter().any(|(other, ..)| *other == name) {
                return Err(twice("secrets", name));
            }
            let inside = config.target(target, workdir)?;
            wanted.secrets.push((name, secret.value.as_bstr(), inside));
        }
        Ok(wanted)
    }
}

fn file_name(target: &BStr) -> std::result::Result<&BStr, SandboxError> {
    let trimmed = target.trim_end_with(|c| c == '/');
    let name = trimmed.rsplit_once_str("/").map_or(trimmed, |(_, name)| name).as_bstr();
    if matches!(name.as_bytes(), b"" | b"." | b"..") {
        return Err(SandboxError::Unsupported {
            what: format!("secret target `{target}` names no file"),
            hint: "end the target with a file name".to_owned(),
        });
    }
    Ok(name)
}

fn outside(config: &Config, kind: &str, target: &BStr) -> SandboxError {
    let home = config.home.display();
    SandboxError::Unsupported {
        what: format!("{kind} target `{target}` is outside the home `{home}`"),
        hint: format!("choose a target below `{home}`, or one relative to the working directory"),
    }
}

fn twice(kind: &str, target: &BStr) -> SandboxError {
    SandboxError::Unsupported {
        what: format!("two {kind} have the target `{target}`"),
        hint: "give each a target of its own".to_owned(),
    }
}

/// How to take one thing out again.
enum Undo {
    /// Rename the cache back to its lease.
    Cache(PathBuf, PathBuf),
    /// Remove the secret.
    Secret(PathBuf),
    /// Bring back what stood there: its name in HOME.aside.
    Aside(PathBuf, PathBuf),
    /// Remove a directory that was made on the way, if it is empty.
    Made(PathBuf),
}

/// What has been placed in a home.
pub(crate) struct Mounts<'a> {
    config: &'a Config,
    undo: Vec<Undo>,
    aside: bool,
    secrets: bool,
}

impl<'a> Mounts<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        Self { config, undo: Vec::new(), aside: false, secrets: false }
    }

    /// Places all that is wanted. What was placed before a failure is known to [`Mounts::take_out`].
    pub(crate) fn place(&mut self, wanted: &Wanted<'_>, owner: Option<Owner>) -> Result<()> {
        for (lease, target) in &wanted.caches {
            tree::give(lease, owner)?;
            let spot = self.clear_spot(target, owner)?;
            rustix::fs::renameat(CWD, *lease, &spot.dir, &spot.name)
                .map_err(|error| not_renamed(error.into(), lease, &self.config.home))?;
            self.undo.push(Undo::Cache(target.clone(), lease.to_path_buf()));
        }
        if wanted.secrets.is_empty() {
            return Ok(());
        }
        let dir = self.config.beside(".secrets");
        self.secrets = true;
        private_dir(&dir, owner)?;
        for (name, value, target) in &wanted.secrets {
            let always = spot(&dir, Path::new(&*name.to_os_str_lossy()), Missing::Absent)?;
            let always = always.ok_or_else(|| Error::NotADirectory(dir.clone()))?;
            write_secret(&always, value, owner)?;
            if let Some(target) = target {
                let spot = self.clear_spot(target, owner)?;
                self.undo.push(Undo::Secret(target.clone()));
                write_secret(&spot, value, owner)?;
            }
        }
        Ok(())
    }

    /// Makes the parents of `target`, and sets aside what stands there.
    fn clear_spot(&mut self, target: &Path, owner: Option<Owner>) -> Result<Spot> {
        let mut made = Vec::new();
        let found = spot(&self.config.home, target, Missing::Make(owner, &mut made));
        self.undo.extend(made.into_iter().map(Undo::Made));
        let found = found?.ok_or_else(|| Error::NotADirectory(target.to_owned()))?;
        if found.exists() {
            let aside = self.config.beside(".aside");
            if !std::mem::replace(&mut self.aside, true) {
                private_dir(&aside, None)?;
            }
            let kept = aside.join(self.undo.len().to_string());
            rustix::fs::renameat(&found.dir, &found.name, CWD, &kept)
                .map_err(Error::io(format!("set `{}` in the tree aside", target.display())))?;
            self.undo.push(Undo::Aside(kept, target.to_owned()));
        }
        Ok(found)
    }

    /// Takes everything out, going on after a failure; the first one is told.
    pub(crate) fn take_out(mut self) -> Result<()> {
        let mut result = Ok(());
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            result = result.and(self.take_out_one(&undo));
        }
        for (used, suffix) in [(self.secrets, ".secrets"), (self.aside, ".aside")] {
            if used {
                result = result.and(tree::remove(&self.config.beside(suffix)));
            }
        }
        result
    }

    /// Removes the secrets alone.
    pub(crate) fn abandon(mut self) {
        self.undo.retain(|undo| matches!(undo, Undo::Secret(_)));
        self.aside = false;
        if let Err(error) = self.take_out() {
            tracing::error!(%error, "failed to remove secrets");
        }
    }

    fn take_out_one(&self, undo: &Undo) -> Result<()> {
        let home = &self.config.home;
        match undo {
            Undo::Cache(target, lease) => {
                let found = spot(home, target, Missing::Absent).ok().flatten();
                if let Some(found) = found.filter(Spot::is_dir) {
                    return rustix::fs::renameat(&found.dir, &found.name, CWD, lease).map_err(
                        Error::io(format!("rename the cache at `{}` back", target.display())),
                    );
                }
                tracing::warn!(target = %target.display(), "a step took its cache away");
                fs::create_dir(lease).map_err(Error::io(format!("make `{}`", lease.display())))
            }
            Undo::Secret(target) => remove(home, target, AtFlags::empty()),
            Undo::Made(dir) => remove(home, dir, AtFlags::REMOVEDIR),
            Undo::Aside(kept, target) => {
                let mut made = Vec::new();
                let found = spot(home, target, Missing::Make(None, &mut made))?
                    .ok_or_else(|| Error::NotADirectory(target.clone()))?;
                if found.exists() {
                    tree::remove(&home.join(target))?;
                }
                rustix::fs::renameat(CWD, kept, &found.dir, &found.name)
                    .map_err(Error::io(format!("bring `{}` in the tree back", target.display())))
            }
        }
    }
}

/// Removes a file or an empty directory, if it is there; a step may have done anything meanwhile.
fn remove(home: &Path, target: &Path, flags: AtFlags) -> Result<()> {
    let Ok(Some(found)) = spot(home, target, Missing::Absent) else { return Ok(()) };
    let empty_dirs = flags == AtFlags::REMOVEDIR;
    match rustix::fs::unlinkat(&found.dir, &found.name, flags) {
        Err(error) if !empty_dirs && found.exists() => {
            Err(Error::io(format!("remove the secret at `{}`", target.display()))(error))
        }
        _ => Ok(()),
    }
}

fn write_secret(spot: &Spot, value: &BStr, owner: Option<Owner>) -> Result<()> {
    let action = || format!("write the secret `{}`", spot.name.display());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&spot.dir, &spot.name, flags, Mode::from_raw_mode(0o400))
        .map_err(Error::io(action()))?;
    File::from(file).write_all(value).map_err(Error::io(action()))?;
    give(&spot.dir, &spot.name, owner).map_err(Error::io(action()))
}
