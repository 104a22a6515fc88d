//! Putting a base image into a pool, as OBuilder looks for it there.

use std::fs;
use std::path::Path;

use bstr::BStr;
use obuilder_core::Cancel;
use obuilder_core::error::{FetchError, StoreError};
use tree_copy::{Options, copy_tree};

use crate::exchange;
use crate::fetcher::{ZfsFetcher, broken, tree_failed};
use crate::layout::{Pool, failed};
use crate::lock::Locked;
use crate::mount::{LOCAL, is_place};
use crate::store::Inner;
use crate::tree::{Children, make_dir, remove, remove_dir};

/// The group of images, which OBuilder does not make.
const GROUP: &str = "base-image";

/// What became of an image that was put into a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// There was none of its name.
    New,
    /// An older one has gone, or goes when nothing is made of it any more.
    Replaced,
    /// The one that is there is the same.
    Unchanged,
}

impl ZfsFetcher {
    /// Puts a copy of the directory `tree` into the pool as `POOL/base-image/NAME@snap`, with its tree as `home` and what is in its
    /// `local` as `brew`. `mark` names a file in it that only copies of the same image have in common. Whoever looks meanwhile finds
    /// the old image or the new one, whole; what was made of the old one stays.
    pub fn put(
        &self,
        name: &str,
        tree: &Path,
        mark: &str,
        cancel: &Cancel,
    ) -> Result<Put, FetchError> {
        let name = BStr::new(name);
        let wrong = |error| broken("put into the pool", name, error);
        let Some(path) = self.path(name) else {
            let source = "no dataset can have this name".into();
            let action = "name a dataset".to_owned();
            return Err(wrong(StoreError::Failed { action, source }));
        };
        let store = self.store();
        let _turn = images_lock(&store.pool).map_err(wrong)?;
        // What a killed process has begun is brought to its end.
        drop(exchange::shared_lock(&store.pool).map_err(wrong)?);
        let there = store.pool.zfs.exists(&store.pool.dataset(&path)).map_err(wrong)?;
        if there && store.is_marked(&path, tree, mark).map_err(wrong)? {
            return Ok(Put::Unchanged);
        }
        let new = format!("result-tmp/{}", store.pool.unique());
        let put = store.pool.fill(&new, tree, cancel);
        match put.and_then(|()| store.put_in_place(&new, &path)) {
            Ok(()) => Ok(if there { Put::Replaced } else { Put::New }),
            Err(error) => {
                store.trash.throw(new);
                let cancelled = cancel.is_cancelled();
                Err(if cancelled { FetchError::Cancelled(name.to_owned()) } else { wrong(error) })
            }
        }
    }
}

fn images_lock(pool: &Pool) -> Result<Locked, StoreError> {
    pool.make_group(GROUP)?;
    let path = pool.locks().join("images");
    Locked::alone(&path).map_err(|e| failed("lock", &path, e))
}

impl Inner {
    /// Whether the image at `path` below the pool has the same file `mark` as `tree`.
    fn is_marked(&self, path: &str, tree: &Path, mark: &str) -> Result<bool, StoreError> {
        let own = tree.join(mark);
        let own = fs::read(&own).map_err(|e| failed("read", &own, e))?;
        let pool = &self.pool;
        let clone = format!("cache-tmp/{}", pool.unique());
        if !pool.clone_one(&format!("{path}/home"), &clone, None)? {
            return Ok(false);
        }
        let shown = pool.show_made(&clone);
        let same = fs::read(pool.dir(&clone).join(mark)).is_ok_and(|theirs| theirs == own);
        self.trash.throw(clone);
        shown.map(|()| same)
    }

    /// Has the image that is made at `new` below the pool take its place. What the old one has clones for waits for them in the trash.
    fn put_in_place(&self, new: &str, path: &str) -> Result<(), StoreError> {
        let pool = &self.pool;
        let old = format!("trash/{}", pool.unique());
        let lock = exchange::lock(pool)?;
        if !pool.zfs.exists(&pool.dataset(path))? {
            return pool.rename(new, path);
        }
        pool.unmount_all(path)?;
        exchange::exchange(pool, path, new, &old)?;
        drop(lock);
        self.trash.throw(old);
        Ok(())
    }
}

impl Pool {
    /// Makes datasets at `path` below the pool that hold what is in `tree`, with their snapshots. They are mounted where they inherit
    /// it, while they are filled, and never by themselves.
    fn fill(&self, path: &str, tree: &Path, cancel: &Cancel) -> Result<(), StoreError> {
        let [home, brew] = ["home", "brew"].map(|child| format!("{path}/{child}"));
        let has_local = is_place(tree, LOCAL);
        let mut made = vec![path, &home];
        if has_local {
            made.push(&brew);
        }
        for one in &made {
            let (dataset, at) = (self.dataset(one), self.dir(one));
            let words = ["create", "-o", "canmount=noauto", &dataset];
            self.zfs.act(&format!("create `{dataset}`"), &words)?;
            self.mounter.born(&dataset, &at);
            make_dir(&at)?;
            self.mount_made(one, &at)?;
        }
        let copy = |from: &Path, to: &Path| {
            let stop = || cancel.is_cancelled();
            let options = Options { cancel: Some(&stop), ..Options::default() };
            copy_tree(from, to, &options).map(drop).map_err(tree_failed)
        };
        copy(tree, &self.dir(&home))?;
        let local = self.dir(&home).join(LOCAL);
        if has_local {
            copy(&local, &self.dir(&brew))?;
            // A place to show it at.
            remove(&local)?;
            make_dir(&local)?;
        }
        for one in made.iter().rev() {
            self.mounter.unmount(&self.zfs, &self.dataset(one), &self.dir(one), false, true)?;
        }
        remove_dir(&self.dir(path))?;
        let children: Children = (0..made.len() - 1).collect();
        self.snapshot(path, &children)
    }

    /// Unmounts what is at `path` below the pool, wherever it is mounted: whoever made it may have left it so.
    fn unmount_all(&self, path: &str) -> Result<(), StoreError> {
        let wanted = ["-r", "-t", "filesystem", "-o", "name,mounted"];
        let rows = self.zfs.table(&wanted, &[&self.dataset(path)])?;
        for row in rows.iter().rev().filter(|row| row[1] == "yes") {
            let action = format!("unmount `{}`", row[0]);
            self.zfs.act_patiently(&action, &["unmount", &row[0]], || true)?;
        }
        Ok(())
    }
}
