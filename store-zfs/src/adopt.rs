//! A tree that is made of an image's own datasets: clones of them, which cost nothing and are what OBuilder looks for in a pool.

use std::path::Path;

use obuilder_core::error::StoreError;

use crate::layout::{Pool, SNAPSHOT};
use crate::mount::CHILDREN;
use crate::names;
use crate::store::Inner;
use crate::tree::{Children, make_place};

impl Inner {
    /// Puts clones of what the image at `image` below the pool has in the place of the empty tree `rootfs`. Says whether that could
    /// be: not if the image has no datasets of its own for its tree, or if the tree is not one that this store is making.
    pub(crate) fn adopt(&self, image: &str, rootfs: &Path) -> Result<bool, StoreError> {
        let Some((dir, path)) =
            rootfs.parent().and_then(|dir| Some((dir, self.pool.made_at(dir)?)))
        else {
            return Ok(false);
        };
        let children = self.pool.children_of(image)?;
        if !children.contains(&0) {
            return Ok(false);
        }
        self.pool.clone_image(image, &path, dir, &children)?;
        self.adopted().insert(dir.to_owned(), children);
        Ok(true)
    }
}

impl Pool {
    /// The path below the pool of the result that is made in the directory `dir` by this opening.
    fn made_at(&self, dir: &Path) -> Option<String> {
        let name = dir.file_name()?.to_str()?;
        let path = format!("result-tmp/{name}");
        let ours = names::maker(name).is_some_and(|maker| self.is_own(maker));
        (ours && (dir == self.dir(&path) || dir == self.made(&path))).then_some(path)
    }

    fn clone_image(
        &self,
        image: &str,
        path: &str,
        dir: &Path,
        children: &Children,
    ) -> Result<(), StoreError> {
        let apart = dir != self.dir(path);
        if apart {
            let (home, rootfs) = CHILDREN[0];
            let (home, at) = (format!("{path}/{home}"), dir.join(rootfs));
            self.mounter.unmount(&self.zfs, &self.dataset(&home), &at, false, true)?;
            self.destroy(&home)?;
        }
        for number in children {
            let (child, place) = CHILDREN[*number];
            let (from, to, at) =
                (format!("{image}/{child}"), format!("{path}/{child}"), dir.join(place));
            make_place(&at)?;
            if !self.clone_one(&from, &to, apart.then_some(&at))? {
                let action = format!("clone `{}@{SNAPSHOT}`", self.dataset(&from));
                return Err(StoreError::Failed { action, source: "it is gone again".into() });
            }
            self.mount_made(&to, &at)?;
        }
        Ok(())
    }
}
