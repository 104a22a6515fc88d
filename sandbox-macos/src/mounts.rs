//! Caches and secrets in the home, placed by `rename(2)` and taken out again.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bstr::{BStr, ByteSlice};
use obuilder_core::error::SandboxError;
use obuilder_core::step::{Owner, Step};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::beneath::{Missing, Spot, give, open_root, spot};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::home::{not_renamed, private_dir};
use crate::slot::Slot;
use crate::{stuck, tree};

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
    /// Bring the cache, which is mounted here, back to its lease.
    Mounted(PathBuf, PathBuf),
    /// Remove the secret.
    Secret(PathBuf),
    /// Bring back what stood there: its name in HOME.aside.
    Aside(PathBuf, PathBuf),
    /// The same where a tree is a volume of its own: another name in its directory.
    AsideThere(PathBuf, PathBuf),
    /// Remove a directory that was made on the way, if it is empty.
    Made(PathBuf),
}

/// What has been placed in a home.
pub(crate) struct Mounts<'a> {
    slot: &'a Slot,
    owner: Option<Owner>,
    /// The tree, wherever its step may have moved it; open if anything is to be placed in it.
    tree: Option<OwnedFd>,
    /// Secrets are not written: the step's own view of the filesystem has them at the places made here.
    secrets_in_memory: bool,
    undo: Vec<Undo>,
    aside: bool,
    secrets: bool,
}

impl<'a> Mounts<'a> {
    /// Nothing yet; what will be placed is `owner`'s, if there is one.
    pub(crate) fn new(slot: &'a Slot, owner: Option<Owner>, secrets_in_memory: bool) -> Self {
        Self {
            slot,
            owner,
            tree: None,
            secrets_in_memory,
            undo: Vec::new(),
            aside: false,
            secrets: false,
        }
    }

    /// Finds `target` in the tree.
    fn spot(&self, target: &Path, missing: Missing<'_>) -> Result<Option<Spot>> {
        let tree = self.tree.as_ref().expect("it is opened before anything is placed");
        spot(tree, target, missing)
    }

    /// Places all that is wanted. What was placed before a failure is known to [`Mounts::take_out`].
    pub(crate) fn place(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        if wanted.caches.is_empty() && wanted.secrets.is_empty() {
            return Ok(());
        }
        self.tree = Some(open_root(&self.slot.place)?);
        for (lease, target) in &wanted.caches {
            tree::give(lease, self.owner)?;
            if self.slot.carry.mounts() {
                self.mount_cache(lease, target)?;
                continue;
            }
            let spot = self.clear_spot(target)?;
            spot.rename_in(lease)
                .map_err(|error| not_renamed(error.into(), lease, &self.slot.place))?;
            self.undo.push(Undo::Cache(target.clone(), lease.to_path_buf()));
        }
        if wanted.secrets.is_empty() { Ok(()) } else { self.place_secrets(wanted) }
    }

    /// Mounts a cache; what stands at its target is hidden by that, or set aside if it is no directory.
    fn mount_cache(&mut self, lease: &Path, target: &Path) -> Result<()> {
        let action = || format!("mount the cache `{}` in the tree", lease.display());
        let mut made = Vec::new();
        let spot = self.spot(target, Missing::Make(self.owner, &mut made));
        self.undo.extend(made.into_iter().map(Undo::Made));
        let mut spot = spot?.ok_or_else(|| Error::NotADirectory(target.to_owned()))?;
        let mut found = spot.found().map_err(Error::io(action()))?;
        if found.is_some_and(|kind| kind != FileType::Directory) {
            spot = self.clear_spot(target)?;
            found = None;
        }
        if found.is_none() {
            spot.make_dir().map_err(Error::io(action()))?;
            self.undo.push(Undo::Made(target.to_owned()));
        }
        // No process of the step lives yet that could put a symlink in the way.
        let at = self.slot.place.join(target);
        self.slot.carry.carry(lease, &at).map_err(Error::io(action()))?;
        self.undo.push(Undo::Mounted(target.to_owned(), lease.to_owned()));
        Ok(())
    }

    fn place_secrets(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let owner = self.owner;
        let dir = self.slot.beside(".secrets");
        self.secrets = true;
        private_dir(&dir, owner)?;
        let opened = open_root(&dir)?;
        for (name, value, target) in &wanted.secrets {
            let value = if self.secrets_in_memory { BStr::new("") } else { value };
            if !self.secrets_in_memory {
                let always = spot(&opened, Path::new(&*name.to_os_str_lossy()), Missing::Absent)?;
                let always = always.ok_or_else(|| Error::NotADirectory(dir.clone()))?;
                write_secret(&always, value, owner)?;
            }
            if let Some(target) = target {
                let spot = self.clear_spot(target)?;
                self.undo.push(Undo::Secret(target.clone()));
                write_secret(&spot, value, owner)?;
            }
        }
        Ok(())
    }

    /// Makes the parents of `target`, and sets aside what stands there.
    fn clear_spot(&mut self, target: &Path) -> Result<Spot> {
        let mut made = Vec::new();
        let found = self.spot(target, Missing::Make(self.owner, &mut made));
        self.undo.extend(made.into_iter().map(Undo::Made));
        let found = found?.ok_or_else(|| Error::NotADirectory(target.to_owned()))?;
        let action = || format!("set `{}` in the tree aside", target.display());
        if found.found().map_err(Error::io(action()))?.is_some() && self.slot.carry.mounts() {
            let kept = target.with_file_name(format!(".obuild-aside-{}", self.undo.len()));
            found.rename(kept.file_name().unwrap_or_default()).map_err(Error::io(action()))?;
            self.undo.push(Undo::AsideThere(kept, target.to_owned()));
        } else if found.found().map_err(Error::io(action()))?.is_some() {
            let aside = self.slot.beside(".aside");
            if !std::mem::replace(&mut self.aside, true) {
                private_dir(&aside, None)?;
            }
            let kept = aside.join(self.undo.len().to_string());
            found.rename_out(&kept).map_err(Error::io(action()))?;
            self.undo.push(Undo::Aside(kept, target.to_owned()));
        }
        Ok(found)
    }

    /// Takes everything out, going on after a failure; the first one is told.
    pub(crate) fn take_out(mut self) -> Result<()> {
        let mut result = if self.secrets { self.clear(".secrets") } else { Ok(()) };
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            result = result.and(self.take_out_one(&undo));
        }
        result.and(if self.aside { self.clear(".aside") } else { Ok(()) })
    }

    fn clear(&self, suffix: &str) -> Result<()> {
        stuck::clear(self.slot, &self.slot.beside(suffix))
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
        match undo {
            Undo::Cache(target, lease) => self.take_out_cache(target, lease),
            Undo::Mounted(target, lease) => self.bring_cache_back(target, lease),
            Undo::AsideThere(kept, target) => self.bring_back_there(kept, target),
            Undo::Secret(target) => self.remove(target, AtFlags::empty()),
            Undo::Made(dir) => self.remove(dir, AtFlags::REMOVEDIR),
            Undo::Aside(kept, target) => self.bring_back(kept, target),
        }
    }

    fn take_out_cache(&self, target: &Path, lease: &Path) -> Result<()> {
        let action = || format!("rename the cache at `{}` back", target.display());
        let spot = self.there(target)?;
        let found = spot.as_ref().map_or(Ok(None), Spot::found).map_err(Error::io(action()))?;
        if let (Some(spot), Some(FileType::Directory)) = (&spot, found) {
            return spot.rename_out(lease).map_err(Error::io(action()));
        }
        tracing::warn!(target = %target.display(), "a step took its cache away");
        fs::create_dir(lease).map_err(Error::io(format!("make `{}`", lease.display())))
    }

    /// A step cannot move what is mounted, but any directory above it.
    fn bring_cache_back(&self, target: &Path, lease: &Path) -> Result<()> {
        let at = self.slot.place.join(target);
        if self.there(target)?.is_none() {
            tracing::warn!(target = %target.display(), "a step took its cache away");
            return Ok(());
        }
        let action = || format!("bring the cache at `{}` back", target.display());
        self.slot.carry.bring_back(&at, lease).map_err(Error::io(action()))
    }

    fn bring_back_there(&self, kept: &Path, target: &Path) -> Result<()> {
        let action = || format!("bring `{}` in the tree back", target.display());
        let (Some(kept), Some(spot)) = (self.there(kept)?, self.there(target)?) else {
            return Ok(());
        };
        let name = target.file_name().unwrap_or_default();
        match spot.found().map_err(Error::io(action()))? {
            None => kept.rename(name).map_err(Error::io(action())),
            // The step has put something of its own there.
            Some(_) => kept.unlink(AtFlags::empty()).map_err(Error::io(action())),
        }
    }

    fn bring_back(&self, kept: &Path, target: &Path) -> Result<()> {
        let action = || format!("bring `{}` in the tree back", target.display());
        let spot = self.spot(target, Missing::Make(self.owner, &mut Vec::new()))?;
        let spot = spot.ok_or_else(|| Error::NotADirectory(target.to_owned()))?;
        if spot.found().map_err(Error::io(action()))?.is_some() {
            // Goes with HOME.aside.
            let mut replaced = kept.as_os_str().to_owned();
            replaced.push(".replaced");
            spot.rename_out(Path::new(&replaced)).map_err(Error::io(action()))?;
        }
        spot.rename_in(kept).map_err(Error::io(action()))
    }

    /// Where `target` is; `None` if a step has put something else in the way.
    fn there(&self, target: &Path) -> Result<Option<Spot>> {
        match self.spot(target, Missing::Absent) {
            Err(Error::NotADirectory(_)) => Ok(None),
            found => found,
        }
    }

    /// Removes a file or an empty directory, if it is there; a step may have done anything meanwhile.
    fn remove(&self, target: &Path, flags: AtFlags) -> Result<()> {
        let Some(spot) = self.there(target)? else { return Ok(()) };
        match spot.unlink(flags) {
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if flags == AtFlags::REMOVEDIR => {
                Ok(())
            }
            done => {
                let what = if flags.is_empty() { "the secret at " } else { "" };
                done.map_err(Error::io(format!("remove {what}`{}`", target.display())))
            }
        }
    }
}

fn write_secret(spot: &Spot, value: &BStr, owner: Option<Owner>) -> Result<()> {
    let action = || format!("write the secret `{}`", spot.name.display());
    let file = spot.create(Mode::from_raw_mode(0o400)).map_err(Error::io(action()))?;
    File::from(file).write_all(value).map_err(Error::io(action()))?;
    give(&spot.dir, &spot.name, owner).map_err(Error::io(action()))
}
