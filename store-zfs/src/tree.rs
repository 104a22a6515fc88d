//! Trees: a dataset with its children, mounted together.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use obuilder_core::error::StoreError;

use crate::layout::{Pool, SNAPSHOT, failed};
use crate::mount::CHILDREN;

/// What a dataset at a path below the pool has below it: indices into [`CHILDREN`].
pub(crate) type Children = Vec<usize>;

impl Pool {
    /// Mounts what lies at `path` below the pool in its directory, or its snapshot to be read. `None` when it is not there.
    pub(crate) fn show(&self, path: &str, snapshot: bool) -> Result<Option<Children>, StoreError> {
        let dir = self.dir(path);
        make_dir(&dir)?;
        let dataset = self.dataset(path);
        match self.mounter.mount(&self.zfs, &dataset, snapshot, &dir) {
            Ok(true) => {}
            other => {
                remove_dir(&dir)?;
                return other.map(|_| None);
            }
        }
        let mut children = Vec::new();
        for (number, (child, place)) in CHILDREN.iter().enumerate() {
            if self.show_child(&format!("{dataset}/{child}"), snapshot, &dir.join(place))? {
                children.push(number);
            }
        }
        Ok(Some(children))
    }

    /// Where there is no place for it, none was ever shown.
    fn show_child(&self, child: &str, snapshot: bool, at: &Path) -> Result<bool, StoreError> {
        if !at.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(false);
        }
        self.mounter.mount(&self.zfs, child, snapshot, at)
    }

    /// Unmounts it all again, and removes the directory. If it is in use and not `force`d, it stays.
    pub(crate) fn hide(&self, path: &str, force: bool) -> Result<(), StoreError> {
        let dir = self.dir(path);
        self.mounter.unmount(&self.zfs, &self.dataset(path), &dir, force)?;
        remove_dir(&dir)
    }

    /// Whether what lies at `path` is mounted.
    pub(crate) fn is_shown(&self, path: &str) -> Result<bool, StoreError> {
        self.mounter.is_mounted(&self.zfs, &self.dataset(path), &self.dir(path))
    }

    /// Makes a dataset at `path` with an empty tree, and mounts it in its directory.
    pub(crate) fn create_tree(&self, path: &str) -> Result<Children, StoreError> {
        let dataset = self.dataset(path);
        let create = |dataset: &str| {
            let arguments = ["create", "-o", "canmount=noauto", dataset];
            self.zfs.act(&format!("create `{dataset}`"), &arguments)
        };
        create(&dataset)?;
        let apart = self.mounter.wants_tree_apart();
        if apart {
            create(&format!("{dataset}/{}", CHILDREN[0].0))?;
        }
        self.show_made(path)?;
        make_tree_dir(&self.dir(path))?;
        if !apart {
            return Ok(Vec::new());
        }
        let (home, place) = CHILDREN[0];
        let at = self.dir(path).join(place);
        self.mounter.mount(&self.zfs, &format!("{dataset}/{home}"), false, &at)?;
        Ok(vec![0])
    }

    /// Clones the snapshot of what is at `from`, with all its children, and mounts the clone in its directory. `None` when the
    /// snapshot is not there.
    pub(crate) fn clone_tree(
        &self,
        from: &str,
        path: &str,
    ) -> Result<Option<Children>, StoreError> {
        if !self.clone_one(&self.dataset(from), &self.dataset(path))? {
            return Ok(None);
        }
        self.show_made(path)?;
        let dir = self.dir(path);
        make_tree_dir(&dir)?;
        let mut children = Vec::new();
        for (number, (child, place)) in CHILDREN.iter().enumerate() {
            let at = dir.join(place);
            let there = at.symlink_metadata().is_ok_and(|found| found.is_dir());
            // A prefix is in a home, so there is none without one.
            if number > 0 && children.is_empty() {
                break;
            }
            let (base, clone) = (
                format!("{}/{child}", self.dataset(from)),
                format!("{}/{child}", self.dataset(path)),
            );
            if !self.has_snapshot(&base, there.then_some(&at))? {
                continue;
            }
            if !there {
                make_dir(&at)?;
            }
            self.clone_one(&base, &clone)?;
            self.mounter.mount(&self.zfs, &clone, false, &at)?;
            children.push(number);
        }
        Ok(Some(children))
    }

    /// Whether `dataset` has our snapshot. By trying to mount it, where that costs less than a command.
    fn has_snapshot(&self, dataset: &str, at: Option<&Path>) -> Result<bool, StoreError> {
        let Some(at) = at.filter(|_| !self.mounter.wants_tree_apart()) else {
            return self.zfs.exists(&format!("{dataset}@{SNAPSHOT}"));
        };
        let found = self.mounter.mount(&self.zfs, dataset, true, at)?;
        if found {
            self.mounter.unmount(&self.zfs, dataset, at, true)?;
        }
        Ok(found)
    }

    /// Clones one snapshot, to be mounted by us alone; says whether it was there.
    pub(crate) fn clone_one(&self, from: &str, to: &str) -> Result<bool, StoreError> {
        let snapshot = format!("{from}@{SNAPSHOT}");
        let arguments = ["clone", "-o", "canmount=noauto", &snapshot, to];
        match self.zfs.act(&format!("clone `{snapshot}` to `{to}`"), &arguments) {
            Ok(()) => Ok(true),
            Err(_) if !self.zfs.exists(&snapshot)? => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Mounts what was made a moment ago.
    pub(crate) fn show_made(&self, path: &str) -> Result<(), StoreError> {
        let (dir, dataset) = (self.dir(path), self.dataset(path));
        make_dir(&dir)?;
        if self.mounter.mount(&self.zfs, &dataset, false, &dir)? {
            return Ok(());
        }
        Err(failed(&format!("mount `{dataset}` at"), &dir, ErrorKind::NotFound.into()))
    }

    /// Takes the snapshot of what is at `path` and of its children, all at one moment; on the disk when this returns.
    pub(crate) fn snapshot(&self, path: &str, children: &Children) -> Result<(), StoreError> {
        let dataset = self.dataset(path);
        let own = [format!("{dataset}@{SNAPSHOT}")];
        let below =
            children.iter().map(|number| format!("{dataset}/{}@{SNAPSHOT}", CHILDREN[*number].0));
        let names: Vec<_> = own.into_iter().chain(below).collect();
        let arguments: Vec<_> =
            ["snapshot"].into_iter().chain(names.iter().map(String::as_str)).collect();
        self.zfs.act(&format!("take the snapshot `{}`", names[0]), &arguments)
    }

    /// Renames a dataset that is not mounted, with all below it.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let (from, to) = (self.dataset(from), self.dataset(to));
        let worth = || {
            let (there, taken) = (self.zfs.exists(&from), self.zfs.exists(&to));
            there.unwrap_or(false) && !taken.unwrap_or(true)
        };
        self.zfs.act_patiently(
            &format!("rename `{from}` to `{to}`"),
            &["rename", &from, &to],
            worth,
        )
    }

    /// Destroys what is at `path`, with its snapshots and all below it. Fails if something is a clone of it.
    pub(crate) fn destroy(&self, path: &str) -> Result<(), StoreError> {
        let dataset = self.dataset(path);
        let worth = || self.zfs.exists(&dataset).unwrap_or(false) && !self.has_clones(&dataset);
        let done = self.zfs.act_patiently(
            &format!("destroy `{dataset}`"),
            &["destroy", "-r", &dataset],
            worth,
        );
        // Somebody else has destroyed it, which is as well.
        done.or_else(|error| if self.zfs.exists(&dataset)? { Err(error) } else { Ok(()) })
    }

    fn has_clones(&self, dataset: &str) -> bool {
        self.clones(dataset).is_ok_and(|clones| !clones.is_empty())
    }

    /// Snapshots in `dataset` that have clones, each with one of them.
    pub(crate) fn clones(&self, dataset: &str) -> Result<Vec<(String, Vec<String>)>, StoreError> {
        let rows = self.zfs.table(&["-r", "-t", "snapshot", "-o", "name,clones", dataset])?;
        let cloned = rows.into_iter().filter(|row| !matches!(row[1].as_str(), "" | "-"));
        Ok(cloned
            .map(|row| (row[0].clone(), row[1].split(',').map(str::to_owned).collect()))
            .collect())
    }
}

/// A place to mount at, for nobody else.
fn make_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed("make", dir, error)),
        _ => Ok(()),
    }
}

/// The place of the tree in a dataset.
fn make_tree_dir(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let rootfs = dir.join("rootfs");
    let made = fs::create_dir(&rootfs);
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made
            .and_then(|()| fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o755)))
            .map_err(|e| failed("make", &rootfs, e)),
    }
}

/// Removes a place to mount at. One that is not empty is somebody's who mounted there meanwhile.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir(dir) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(failed("remove", dir, error))
        }
        _ => Ok(()),
    }
}
