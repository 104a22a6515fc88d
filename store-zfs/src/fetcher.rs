//! Base images that lie in the pool.

use std::path::Path;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{Fetcher, Fingerprint, Image};
use obuilder_core::error::{FetchError, StoreError};
use obuilder_core::{BuildLog, Cancel};
use sha2::{Digest, Sha256};
use tree_copy::{Options, copy_tree};

use crate::layout::SNAPSHOT;
use crate::mount::CHILDREN;
use crate::store::{Inner, ZfsStore};
use crate::tree::remove;

/// Base images from `POOL/base-image/NAME@snap`. What it has below it as `home` is the image's tree, and `brew` the tree's `local`;
/// without a `home`, `rootfs` in it or else all of it is the tree.
pub struct ZfsFetcher {
    store: Arc<Inner>,
}

impl ZfsFetcher {
    /// The images in the pool of `store`.
    pub fn new(store: &ZfsStore) -> Self {
        Self { store: store.inner().clone() }
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
    fn path(&self, base: &BStr) -> Option<String> {
        let name = base.to_str().ok()?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let plain = !name.is_empty() && name.chars().all(fits) && !name.starts_with(['-', '.']);
        plain.then(|| format!("base-image/{name}"))
    }

    /// Unique numbers of the image's snapshots, which are its own for ever.
    fn guids(&self, base: &BStr) -> Result<Option<Vec<String>>, StoreError> {
        let Some(path) = self.path(base) else { return Ok(None) };
        let dataset = self.store.pool.dataset(&path);
        let rows =
            self.store.pool.zfs.table(&["-r", "-t", "snapshot", "-o", "name,guid"], &[&dataset])?;
        let ours = rows.iter().filter(|row| row[0].ends_with(&format!("@{SNAPSHOT}")));
        let whole = ours.clone().any(|row| row[0] == format!("{dataset}@{SNAPSHOT}"));
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

    fn print(&self, base: &BStr) -> Result<Fingerprint, FetchError> {
        let guids = self.guids(base).map_err(|error| broken("look at", base, error))?;
        let guids = guids.ok_or_else(|| self.unknown(base))?;
        let stamp = guids.join(" ");
        let digest = hex::encode(Sha256::digest(stamp.as_bytes()));
        Ok(Fingerprint { stamp, digest })
    }

    /// Copies the image into the empty directory `rootfs`.
    fn copy(&self, path: &str, rootfs: &Path) -> Result<(), StoreError> {
        let [home, brew] = CHILDREN.map(|(child, _)| format!("{path}/{child}"));
        if !self.copy_one(&home, rootfs)? {
            self.copy_one(path, rootfs)?;
            return Ok(());
        }
        let local = rootfs.with_file_name(CHILDREN[1].1);
        if local.symlink_metadata().is_ok()
            && self.store.pool.zfs.exists(&self.store.pool.dataset(&brew))?
        {
            remove(&local)?;
        }
        self.copy_one(&brew, &local).map(drop)
    }

    /// Copies a snapshot by way of a clone, so that the image itself stays as and where it is. Says whether it was there.
    fn copy_one(&self, path: &str, to: &Path) -> Result<bool, StoreError> {
        let pool = &self.store.pool;
        let clone = format!("cache-tmp/{}", pool.unique());
        if !pool.clone_one(path, &clone, None)? {
            return Ok(false);
        }
        let copied = pool.show_made(&clone).and_then(|()| copy_contents(&pool.dir(&clone), to));
        self.store.trash.throw(clone);
        copied.map(|()| true)
    }
}

fn copy_contents(dir: &Path, to: &Path) -> Result<(), StoreError> {
    let inner = dir.join("rootfs");
    let from = if inner.is_dir() { &inner } else { dir };
    let copied = copy_tree(from, to, &Options::default()).map_err(tree_failed)?;
    if !copied.skipped.is_empty() {
        tracing::warn!(skipped = ?copied.skipped, "left out what cannot be copied");
    }
    Ok(())
}

fn tree_failed(error: tree_copy::Error) -> StoreError {
    let (action, source) = error.into_parts();
    StoreError::io(action, source)
}

fn broken(action: &str, base: &BStr, error: StoreError) -> FetchError {
    FetchError::Failed { action: format!("{action} the base image `{base}`"), source: error.into() }
}

impl Fetcher for ZfsFetcher {
    fn fingerprint(&self, base: &BStr, _: Option<&Fingerprint>) -> Result<Fingerprint, FetchError> {
        self.print(base)
    }

    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        self.print(base).map(|_| Vec::new())
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        _: &BuildLog,
        cancel: &Cancel,
    ) -> Result<Image, FetchError> {
        let fingerprint = self.print(base)?;
        if cancel.is_cancelled() {
            return Err(FetchError::Cancelled(base.to_owned()));
        }
        let path = self.path(base).ok_or_else(|| self.unknown(base))?;
        self.copy(&path, rootfs).map_err(|error| broken("copy", base, error))?;
        Ok(Image { env: Vec::new(), fingerprint })
    }
}
