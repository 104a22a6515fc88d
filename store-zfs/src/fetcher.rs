//! Base images that lie in the pool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{Fetcher, Fingerprint, Image};
use obuilder_core::error::{FetchError, StoreError};
use obuilder_core::{BuildLog, Cancel};
use sha2::{Digest, Sha256};
use tree_copy::{Options, copy_tree, remove_devices};

use crate::exchange;
use crate::layout::{SNAPSHOT, failed};
use crate::lock::Locked;
use crate::mount::{CHILDREN, is_place};
use crate::store::{Inner, ZfsStore};
use crate::tree::remove;

/// Base images from `POOL/base-image/NAME@snap`. What it has below it as `home` is the image's tree, and `brew` the tree's `local`:
/// a tree that is made in the image's pool is of clones of them. Without a `home`, `rootfs` in it or else all of it is the tree, which
/// is copied.
pub struct ZfsFetcher {
    store: Arc<Inner>,
}

impl ZfsFetcher {
    /// The images in the pool of `store`.
    pub fn new(store: &ZfsStore) -> Self {
        Self { store: store.inner().clone() }
    }

    pub(crate) fn store(&self) -> &Arc<Inner> {
        &self.store
    }

    /// Names of all images.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let group = self.store.pool.dataset("base-image");
        let rows = self.store.pool.zfs.table(&["-r", "-t", "snapshot", "-o", "name"], &[&group])?;
        let name = |row: &Vec<String>| {
            let (name, snapshot) =
                row[0].strip_prefix(&group)?.strip_prefix('/')?.split_once('@')?;
            (snapshot == SNAPSHOT && !name.contains('/')).then(|| name.to_owned())
        };
        Ok(rows.iter().filter_map(name).collect())
    }

    /// Whether `base` can be the name of an image at all, as a path below the pool.
    pub(crate) fn path(&self, base: &BStr) -> Option<String> {
        let name = base.to_str().ok()?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let plain = !name.is_empty() && name.chars().all(fits) && !name.starts_with(['-', '.']);
        plain.then(|| format!("base-image/{name}"))
    }

    /// Unique numbers of the image's snapshots, which are its own for ever.
    fn guids(&self, base: &BStr) -> Result<Option<Vec<String>>, StoreError> {
        let Some(path) = self.path(base) else { return Ok(None) };
        let dataset = self.store.pool.dataset(&path);
        let wanted = ["-r", "-t", "filesystem,snapshot", "-o", "name,guid"];
        let rows = self.store.pool.zfs.table(&wanted, &[&dataset])?;
        let ours = rows.iter().filter(|row| row[0].ends_with(&format!("@{SNAPSHOT}")));
        let whole = ours.clone().any(|row| row[0] == format!("{dataset}@{SNAPSHOT}"));
        if !whole && rows.iter().any(|row| row[0] == dataset) {
            // Another image of this name, from a directory or a registry, would not be the one that is meant.
            let what =
                format!("it has no snapshot: `zfs snapshot -r {dataset}@{SNAPSHOT}` takes it");
            let action = format!("use `{dataset}`");
            return Err(StoreError::Failed { action, source: what.into() });
        }
        let mut guids: Vec<_> = ours.map(|row| row[1].clone()).collect();
        guids.sort_unstable();
        Ok(whole.then_some(guids))
    }

    fn unknown(&self, base: &BStr) -> FetchError {
        let known = self.names().unwrap_or_default();
        let group = self.store.pool.dataset("base-image");
        FetchError::Unknown {
            name: base.to_owned(),
            known,
            hint: format!("put it at `{group}/{base}` and take the snapshot `@{SNAPSHOT}`"),
        }
    }

    /// Held while no image is put in the place of another.
    fn no_exchange(&self, base: &BStr) -> Result<Locked, FetchError> {
        exchange::shared_lock(&self.store.pool).map_err(|error| broken("look at", base, error))
    }

    /// The caller has the lock.
    fn print(&self, base: &BStr) -> Result<Fingerprint, FetchError> {
        let guids = self.guids(base).map_err(|error| broken("look at", base, error))?;
        let guids = guids.ok_or_else(|| self.unknown(base))?;
        let stamp = guids.join(" ");
        let digest = hex::encode(Sha256::digest(stamp.as_bytes()));
        Ok(Fingerprint { stamp, digest })
    }
}

/// An image, by clones of its snapshots.
enum Cloned<'a> {
    /// They are the tree.
    InPlace,
    /// They are to be copied.
    Aside { tree: Aside<'a>, local: Option<Aside<'a>> },
}

/// A clone to be copied, so that the image itself stays as and where it is.
struct Aside<'a> {
    store: &'a Inner,
    /// Below the pool.
    path: String,
    /// It is of an image's own dataset, and not of what that has below it.
    whole: bool,
}

impl<'a> Aside<'a> {
    /// Of the snapshot of what lies at `from` below the pool, if there is one.
    fn new(store: &'a Inner, from: &str) -> Result<Option<Self>, StoreError> {
        let path = format!("cache-tmp/{}", store.pool.unique());
        let cloned = store.pool.clone_one(from, &path, None)?;
        let whole = from.matches('/').count() == 1;
        Ok(cloned.then(|| Self { store, path, whole }))
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.store.trash.throw(std::mem::take(&mut self.path));
    }
}

/// Bringing one image.
struct Copying<'a> {
    store: &'a Inner,
    base: &'a BStr,
    log: &'a BuildLog,
    cancel: &'a Cancel,
}

impl Copying<'_> {
    fn broken(&self, error: StoreError) -> FetchError {
        broken("copy", self.base, error)
    }

    /// Clones the image at `path` below the pool: into the empty directory `rootfs`, or else aside, to be copied. The caller sees to
    /// it that no other takes its place.
    fn clone_all(&self, path: &str, rootfs: &Path) -> Result<Cloned<'_>, FetchError> {
        let wrong = |error| broken("clone", self.base, error);
        if self.store.adopt(path, rootfs).map_err(wrong)? {
            return Ok(Cloned::InPlace);
        }
        let [home, brew] = CHILDREN.map(|(child, _)| format!("{path}/{child}"));
        let aside = |path: &str| Aside::new(self.store, path).map_err(wrong);
        let (tree, local) = match aside(&home)? {
            Some(home) => (Some(home), aside(&brew)?),
            None => (aside(path)?, None),
        };
        let gone = || StoreError::Failed {
            action: format!("clone `{}@{SNAPSHOT}`", self.store.pool.dataset(path)),
            source: "it is gone again".into(),
        };
        Ok(Cloned::Aside { tree: tree.ok_or_else(|| wrong(gone()))?, local })
    }

    /// Makes a tree of it.
    fn fill(&self, cloned: Cloned<'_>, rootfs: &Path) -> Result<(), FetchError> {
        let Cloned::Aside { tree, local } = cloned else { return self.remove_devices(rootfs) };
        self.copy_one(&tree, rootfs)?;
        let Some(brew) = local else { return Ok(()) };
        let local = rootfs.with_file_name(CHILDREN[1].1);
        if local.symlink_metadata().is_ok() {
            remove(&local).map_err(|error| self.broken(error))?;
        }
        self.copy_one(&brew, &local)
    }

    /// Copies what was cloned, of an image's own dataset the tree that is in it, if there is one.
    fn copy_one(&self, aside: &Aside<'_>, to: &Path) -> Result<(), FetchError> {
        if self.cancel.is_cancelled() {
            return Err(FetchError::Cancelled(self.base.to_owned()));
        }
        let pool = &self.store.pool;
        pool.show_made(&aside.path).map_err(|error| self.broken(error))?;
        let dir = pool.dir(&aside.path);
        let from = if aside.whole && is_place(&dir, "rootfs") { dir.join("rootfs") } else { dir };
        self.copy_contents(&from, to)
    }

    fn copy_contents(&self, from: &Path, to: &Path) -> Result<(), FetchError> {
        let stop = || self.cancel.is_cancelled();
        let options = Options { cancel: Some(&stop), ..Options::default() };
        let copied = copy_tree(from, to, &options).map_err(|error| match error {
            tree_copy::Error::Cancelled => FetchError::Cancelled(self.base.to_owned()),
            error => self.broken(tree_failed(error)),
        })?;
        let skipped = copied.skipped.iter().filter_map(|path| path.strip_prefix(from).ok());
        self.left_out(skipped, "it cannot be copied")?;
        self.remove_devices(to)
    }

    fn remove_devices(&self, tree: &Path) -> Result<(), FetchError> {
        let devices = remove_devices(tree)
            .map_err(|e| self.broken(failed("look for devices in", tree, e.into())))?;
        self.left_out(devices.iter().map(PathBuf::as_path), "it is a device")
    }

    fn left_out<'a>(
        &self,
        mut paths: impl Iterator<Item = &'a Path>,
        why: &str,
    ) -> Result<(), FetchError> {
        paths.try_for_each(|path| {
            let line = format!("Left out `{}`: {why}\n", path.display());
            self.log.write(line.as_bytes()).map_err(|error| {
                self.broken(StoreError::Failed {
                    action: "write the log".to_owned(),
                    source: error.into(),
                })
            })
        })
    }
}

pub(crate) fn tree_failed(error: tree_copy::Error) -> StoreError {
    let (action, source) = error.into_parts();
    StoreError::io(action, source)
}

pub(crate) fn broken(action: &str, base: &BStr, error: StoreError) -> FetchError {
    FetchError::Failed { action: format!("{action} the base image `{base}`"), source: error.into() }
}

impl Fetcher for ZfsFetcher {
    fn fingerprint(&self, base: &BStr, _: Option<&Fingerprint>) -> Result<Fingerprint, FetchError> {
        let _no_exchange = self.no_exchange(base)?;
        self.print(base)
    }

    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        self.fingerprint(base, None).map(|_| Vec::new())
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError> {
        if cancel.is_cancelled() {
            return Err(FetchError::Cancelled(base.to_owned()));
        }
        let path = self.path(base).ok_or_else(|| self.unknown(base))?;
        let copying = Copying { store: &self.store, base, log, cancel };
        // Only as long as it takes to clone it: caches wait meanwhile.
        let no_exchange = self.no_exchange(base)?;
        let fingerprint = self.print(base)?;
        let cloned = copying.clone_all(&path, rootfs)?;
        // Whoever renames by hand has no lock.
        if self.print(base)? != fingerprint {
            let action = format!("clone `{}`", self.store.pool.dataset(&path));
            let source = "it has changed meanwhile; another build will find the new one".into();
            return Err(broken("fetch", base, StoreError::Failed { action, source }));
        }
        drop(no_exchange);
        copying.fill(cloned, rootfs)?;
        Ok(Image { env: Vec::new(), fingerprint })
    }
}
