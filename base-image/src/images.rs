//! The images in place.
//!
//! ```text
//! DIR/NAME/             an image: a home, with its record in it
//! DIR/NAME.env          its environment, which is empty; marks it as an image among people's homes
//! DIR/ALIAS             a link to the default image
//! DIR/.base-image/      the workshop: NAME.lock, downloads, and what is being made or removed
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tree_copy::{How, Options, copy_tree, remove_tree, sync_tree};

use crate::download::make_dirs;
use crate::error::{Error, Result};
use crate::names::{alias_of, check_name};
use crate::record::Record;
use crate::scan::scan;

/// The workshop's name; images never begin with a dot.
const WORKSHOP: &str = ".base-image";
/// What ends the name of an image's environment.
const ENV: &str = ".env";

/// A directory of images.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// There was none.
    New,
    /// An older one has gone.
    Replaced,
    /// The one that is there is the same.
    Unchanged,
}

/// The right to change the image of one name.
#[derive(Debug)]
struct Claim {
    _lock: File,
    name: String,
}

impl Images {
    /// Those in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the image `name` is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says why `name` cannot be made here: something else is there.
    pub fn check_free(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("look at", path)(error)),
            Ok(meta) if meta.is_dir() && Record::read(&path)?.is_some() => Ok(()),
            Ok(_) => Err(Error::NotOurs(path)),
        }
    }

    /// Says why the second name of a default image called `name` cannot be given: something else is there.
    pub fn check_alias(&self, name: &str) -> Result<()> {
        let Some(alias) = alias_of(name) else { return Ok(()) };
        let path = self.path(alias);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(meta) if meta.is_symlink() => Ok(()),
            Ok(_) => Err(Error::NotOurs(path)),
            Err(error) => Err(Error::io("look at", path)(error)),
        }
    }

    /// Puts a copy of `rootfs` in place as the image of `record`, in one step: whoever looks finds the old image or the new one,
    /// whole. Nothing in it may name one of `places`. A build that has imported the old one keeps it; one that is importing it
    /// finds that it changes and imports the new one.
    pub fn place(
        &self,
        rootfs: &Path,
        record: &Record,
        places: &[PathBuf],
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Placed> {
        let name = &record.request.name;
        let claim = self.claim(name)?;
        self.check_free(name)?;
        let old = Record::read(&self.path(name))?;
        let placed = match &old {
            Some(old) if old.is_same_image(record) => Placed::Unchanged,
            Some(_) => Placed::Replaced,
            None => Placed::New,
        };
        if placed != Placed::Unchanged {
            let staged = self.stage(&claim, rootfs, record, places, cancelled)?;
            self.write_env(name)?;
            self.swap(&claim, &staged, None)?;
            self.remove_staged(&staged)?;
        }
        if record.request.default {
            self.check_alias(name)?;
            self.link_alias(&claim)?;
        }
        Ok(placed)
    }

    /// Puts an image from elsewhere in place, in one step as [`Images::place`] does, whoever has made the one that was there.
    /// `fill` makes its tree at the path it is given, where nothing is, and gives the text of its environment.
    pub fn import<E: From<Error>>(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let claim = self.claim(name)?;
        let (staged, env) = (self.staged(&claim, "new")?, self.staged(&claim, "env")?);
        let imported = fill(&staged).and_then(|text| {
            fs::write(&env, text).map_err(Error::io("write", &env))?;
            Ok(self.swap(&claim, &staged, Some(&env))?)
        });
        for left in [&staged, &env] {
            if left.symlink_metadata().is_ok() {
                self.remove_staged(left)?;
            }
        }
        imported
    }

    /// Every image and link here, sorted; `None` for those that others have made.
    pub fn list(&self) -> Result<Vec<(String, Option<Record>)>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", &self.dir)(error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &self.dir))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with('.') && entry.path().is_dir() {
                let record = Record::read(&entry.path()).unwrap_or_else(|error| {
                    tracing::warn!("{error}");
                    None
                });
                all.push((name, record));
            }
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }

    /// The record of the image `name`.
    pub fn find(&self, name: &str) -> Result<Record> {
        let found = match check_name(name) {
            Ok(()) => Record::read(&self.path(name))?,
            Err(_) => None,
        };
        match found {
            Some(record) => Ok(record),
            None => {
                let ours = self.list()?.into_iter().filter(|(_, record)| record.is_some());
                let known = ours.map(|(name, _)| format!("`{name}`")).collect();
                Err(Error::Unknown { name: name.to_owned(), known })
            }
        }
    }

    /// Removes the image `name`, its environment, and links to it; gives the names that are gone.
    pub fn remove(&self, name: &str) -> Result<Vec<String>> {
        self.find(name)?;
        let path = self.path(name);
        let mut gone = Vec::new();
        let claim = self.claim(name)?;
        let is_link = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
        if is_link {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        } else {
            let links = self.list()?.into_iter().map(|(link, _)| link);
            for link in links
                .filter(|link| fs::read_link(self.path(link)).is_ok_and(|to| to == Path::new(name)))
            {
                let path = self.path(&link);
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                self.remove_env(&link)?;
                gone.push(link);
            }
            let staged = self.staged(&claim, "gone")?;
            fs::rename(&path, &staged).map_err(Error::io("remove", &path))?;
            self.remove_staged(&staged)?;
        }
        self.remove_env(name)?;
        gone.push(name.to_owned());
        Ok(gone)
    }

    /// The workshop, private to its owner.
    pub(crate) fn workshop(&self) -> Result<PathBuf> {
        make_dirs(&self.dir)?;
        let path = self.dir.join(WORKSHOP);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("make the directory", path)(error))
            }
            _ => Ok(path),
        }
    }

    /// Takes the lock of `name`, and sweeps away what a killed process has left of it.
    fn claim(&self, name: &str) -> Result<Claim> {
        let workshop = self.workshop()?;
        let path = workshop.join(format!("{name}.lock"));
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(Error::io("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Error::Busy(name.to_owned())),
            locked => locked.map_err(|error| Error::io("lock", &path)(error.into()))?,
        }
        let claim = Claim { _lock: lock, name: name.to_owned() };
        for part in ["new", "gone", "old", "link", "env"] {
            let left = self.staged(&claim, part)?;
            let image = self.path(name);
            if part == "old" && left.is_dir() && !image.exists() {
                // It was killed between the two renames of `swap_in_two`.
                fs::rename(&left, &image).map_err(Error::io("bring back", image))?;
            } else if left.symlink_metadata().is_ok() {
                self.remove_staged(&left)?;
            }
        }
        Ok(claim)
    }

    fn staged(&self, claim: &Claim, part: &str) -> Result<PathBuf> {
        Ok(self.workshop()?.join(format!("{}.{part}", claim.name)))
    }

    fn remove_staged(&self, path: &Path) -> Result<()> {
        remove_tree(path).map_err(|error| Error::Tree {
            action: format!("remove `{}`", path.display()),
            source: error.into(),
        })
    }

    /// Makes the image beside its place.
    fn stage(
        &self,
        claim: &Claim,
        rootfs: &Path,
        record: &Record,
        places: &[PathBuf],
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<PathBuf> {
        let staged = self.staged(claim, "new")?;
        let options =
            Options { how: How::TryReflink, cancel: Some(cancelled), ..Options::default() };
        let failed = |action: String| {
            move |error: tree_copy::Error| match error {
                tree_copy::Error::Cancelled => Error::Cancelled,
                error => Error::Tree { action, source: error.into() },
            }
        };
        let copied = copy_tree(rootfs, &staged, &options)
            .map_err(failed(format!("copy the result to `{}`", staged.display())))
            .and_then(|_| match scan(&staged, places, cancelled)?.as_slice() {
                [] => Ok(()),
                [first, others @ ..] => Err(Error::Slot {
                    path: first.path.clone(),
                    place: first.place.clone(),
                    others: others.len(),
                }),
            })
            .and_then(|()| record.write(&staged))
            .and_then(|()| {
                sync_tree(&staged).map_err(failed("write the image to disk".to_owned()))
            });
        match copied {
            Ok(()) => Ok(staged),
            Err(error) => {
                self.remove_staged(&staged)?;
                Err(error)
            }
        }
    }

    /// Gives the staged image its name, and the file `env` its environment's; what was there before, if anything, is then at
    /// `staged`.
    fn swap(&self, claim: &Claim, staged: &Path, env: Option<&Path>) -> Result<()> {
        let image = self.path(&claim.name);
        let put_env = || match env {
            Some(env) => {
                let to = self.env(&claim.name);
                fs::rename(env, &to).map_err(Error::io("put in place", to))
            }
            None => Ok(()),
        };
        let failed = |error: Errno| Error::io("put in place", &image)(error.into());
        if !image.exists() {
            put_env()?;
            return fs::rename(staged, &image).map_err(Error::io("put in place", &image));
        }
        match renameat_with(CWD, staged, CWD, &image, RenameFlags::EXCHANGE) {
            // A filesystem that cannot.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.swap_in_two(claim, staged)?,
            exchanged => exchanged.map_err(failed)?,
        }
        // The old image keeps its environment if it cannot be replaced.
        put_env()
    }

    /// For filesystems that cannot exchange two names: for a moment there is no image, and a process that is killed in it leaves
    /// the old one for [`Images::claim`] to bring back.
    fn swap_in_two(&self, claim: &Claim, staged: &Path) -> Result<()> {
        let (image, old) = (self.path(&claim.name), self.staged(claim, "old")?);
        fs::rename(&image, &old).map_err(Error::io("move aside", &image))?;
        if let Err(error) = fs::rename(staged, &image) {
            fs::rename(&old, &image).map_err(Error::io("bring back", &image))?;
            return Err(Error::io("put in place", image)(error));
        }
        self.remove_staged(&old)
    }

    /// Lets the second name of the default image stand for this one.
    fn link_alias(&self, claim: &Claim) -> Result<()> {
        let Some(alias) = alias_of(&claim.name) else { return Ok(()) };
        let (path, link) = (self.path(alias), self.staged(claim, "link")?);
        if fs::read_link(&path).is_ok_and(|target| target == Path::new(&claim.name)) {
            return Ok(());
        }
        self.write_env(alias)?;
        symlink(&claim.name, &link).map_err(Error::io("make the link", &link))?;
        fs::rename(&link, &path).map_err(Error::io("put in place", path))
    }

    fn env(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{ENV}"))
    }

    fn write_env(&self, name: &str) -> Result<()> {
        let path = self.env(name);
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        opened.map(drop).map_err(Error::io("write", path))
    }

    fn remove_env(&self, name: &str) -> Result<()> {
        let path = self.env(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }
}
