//! What is put into a tree for a step, and taken out again.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use bstr::{BStr, ByteSlice};

use super::{os, write_secret};
use crate::step::{Owner, Step};

/// Directories of the host that a tree sees below its own.
const LENT: [&str; 7] = ["usr", "etc", "bin", "sbin", "lib", "lib64", "lib32"];

/// A tree made ready for one step. Dropping it takes out what was put in.
#[derive(Debug)]
pub(super) struct Prepared {
    tree: PathBuf,
    /// Beside the tree, on its volume: the overlays' work directories and the secrets.
    aside: PathBuf,
    /// What was made in the tree, parents first.
    made: Vec<PathBuf>,
    mounts: Vec<OsString>,
}

impl Prepared {
    pub(super) fn new(step: &Step, tree: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let mut aside = tree.as_os_str().to_owned();
        aside.push(".shell-sandbox");
        let (aside, made, mounts) = (PathBuf::from(aside), Vec::new(), Vec::new());
        let mut prepared = Self { tree: tree.to_owned(), aside, made, mounts };
        fs::DirBuilder::new().mode(0o711).create(&prepared.aside)?;
        prepared.lend_host()?;
        prepared.make_workdir(step.workdir.as_bstr(), owner)?;
        for cache in &step.caches {
            if let Some(owner) = owner {
                chown_all(&cache.dir, owner)?;
            }
            let target = prepared.directory(&resolve(tree, cache.target.as_bstr())?)?;
            prepared.mount("--bind", cache.dir.clone(), target);
        }
        for (number, secret) in step.secrets.iter().enumerate() {
            let file = prepared.aside.join(format!("secret-{number}"));
            write_secret(&file, &secret.value)?;
            chown(&file, owner.map(|o| o.uid), owner.map(|o| o.gid))?;
            let target = prepared.file(&resolve(tree, secret.target.as_bstr())?)?;
            prepared.mount("--bind", file, target);
        }
        Ok(prepared)
    }

    /// Arguments of the script that mounts.
    pub(super) fn mounts(&self) -> &[OsString] {
        &self.mounts
    }

    /// Takes out what was put in, unless the step has put something of its own there.
    pub(super) fn restore(mut self) -> io::Result<()> {
        self.take_out()
    }

    fn lend_host(&mut self) -> io::Result<()> {
        for name in LENT {
            let (host, inside) = (Path::new("/").join(name), self.tree.join(name));
            let Ok(found) = host.symlink_metadata() else { continue };
            match inside.symlink_metadata() {
                Ok(own) if !own.is_dir() => continue,
                Err(_) if found.is_symlink() => {
                    symlink(host.read_link()?, &inside)?;
                    self.made.push(inside);
                    continue;
                }
                _ => {}
            }
            let work = self.aside.join(format!("work-{name}"));
            fs::create_dir(&work)?;
            let inside = self.directory(&inside)?;
            let mut options = OsString::from("userxattr,workdir=");
            if nix::unistd::geteuid().is_root() {
                options = "workdir=".into();
            }
            options.push(&work);
            options.push(",upperdir=");
            options.push(&inside);
            options.push(",lowerdir=");
            options.push(host.canonicalize()?);
            self.mount("overlay", options, inside);
        }
        let dev = self.directory(&self.tree.join("dev"))?;
        self.mount("--rbind", "/dev", dev);
        let proc = self.directory(&self.tree.join("proc"))?;
        self.mount("proc", "proc", proc);
        let tmp = self.directory(&self.tree.join("tmp"))?;
        if self.made.contains(&tmp) {
            fs::set_permissions(tmp, Permissions::from_mode(0o1777))?;
        }
        Ok(())
    }

    fn mount(&mut self, kind: &str, source: impl Into<OsString>, target: PathBuf) {
        self.mounts.extend([kind.into(), source.into(), target.into()]);
    }

    /// Makes a directory and its parents; they vanish after the step if they are empty then.
    fn directory(&mut self, path: &Path) -> io::Result<PathBuf> {
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            fs::DirBuilder::new().mode(0o755).create(path)?;
            self.made.push(path.to_owned());
        }
        Ok(path.to_owned())
    }

    /// Makes an empty file and its parents likewise.
    fn file(&mut self, path: &Path) -> io::Result<PathBuf> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if !path.exists() {
            fs::File::create_new(path)?;
            self.made.push(path.to_owned());
        }
        Ok(path.to_owned())
    }

    /// The working directory stays: it is part of what the step does.
    fn make_workdir(&mut self, workdir: &BStr, owner: Option<Owner>) -> io::Result<()> {
        let path = resolve(&self.tree, workdir)?;
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            fs::DirBuilder::new().mode(0o755).create(path)?;
            chown(path, owner.map(|o| o.uid), owner.map(|o| o.gid))?;
        }
        self.made.retain(|made| !path.starts_with(made));
        Ok(())
    }

    fn take_out(&mut self) -> io::Result<()> {
        for path in std::mem::take(&mut self.made).into_iter().rev() {
            let Ok(metadata) = path.symlink_metadata() else { continue };
            match metadata.is_dir() {
                true => match fs::remove_dir(&path) {
                    Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                        return Err(error);
                    }
                    _ => {}
                },
                false => fs::remove_file(&path)?,
            }
        }
        if self.aside.exists() {
            // The kernel makes `work` in an overlay's work directory, closed to everybody.
            for entry in fs::read_dir(&self.aside)? {
                for inner in ["work", "index"] {
                    let inner = entry.as_ref().map_or(self.aside.clone(), |e| e.path()).join(inner);
                    if inner.is_dir() {
                        fs::set_permissions(inner, Permissions::from_mode(0o700))?;
                    }
                }
            }
            fs::remove_dir_all(&self.aside)?;
        }
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Err(error) = self.take_out() {
            tracing::warn!(%error, tree = %self.tree.display(), "failed to clean a tree");
        }
    }
}

/// Where `path` leads for somebody whose root is `tree`, symlinks included; the rest of it may be missing.
fn resolve(tree: &Path, path: &BStr) -> io::Result<PathBuf> {
    let mut todo: Vec<OsString> = parts(Path::new(&os(path)));
    let (mut here, mut links) = (PathBuf::new(), 0);
    while let Some(part) = todo.pop() {
        if part.as_bytes() == b".." {
            here.pop();
            continue;
        }
        here.push(&part);
        let Ok(target) = tree.join(&here).read_link() else { continue };
        links += 1;
        if links > 40 {
            return Err(io::Error::from_raw_os_error(nix::libc::ELOOP));
        }
        here.pop();
        if target.is_absolute() {
            here.clear();
        }
        todo.extend(parts(&target));
    }
    Ok(tree.join(here))
}

/// The components of `path`, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

fn chown_all(path: &Path, owner: Owner) -> io::Result<()> {
    lchown(path, Some(owner.uid), Some(owner.gid))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_all(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
