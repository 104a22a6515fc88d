//! Trees: a dataset with its children, mounted together.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use obuilder_core::error::StoreError;
use tree_copy::remove_tree;

use crate::layout::{Pool, SNAPSHOT, failed};
use crate::mount::CHILDREN;

/// What a dataset at a path below the pool has below it: indices into [`CHILDREN`].
pub(crate) type Children = Vec<usize>;

/// A tree that is worked in.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Where it is, as `rootfs`.
    pub(crate) dir: PathBuf,
    /// What its dataset has below it.
    pub(crate) children: Children,
}

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

    /// Makes a dataset at `path` with an empty tree, and mounts it to be worked in.
    pub(crate) fn create_tree(&self, path: &str) -> Result<Work, StoreError> {
        let dataset = self.dataset(path);
        let create = |dataset: &str| {
            let arguments = ["create", "-o", "canmount=noauto", dataset];
            self.zfs.act(&format!("create `{dataset}`"), &arguments)
        };
        create(&dataset)?;
        if self.mounter.wants_tree_apart() {
            create(&format!("{dataset}/{}", CHILDREN[0].0))?;
            return self.show_apart(path, vec![0]);
        }
        self.show_made(path)?;
        make_tree_dir(&self.dir(path))?;
        Ok(Work { dir: self.dir(path), children: Vec::new() })
    }

    /// Clones the snapshot of what is at `from`, with all its children, and mounts the clone to be worked in. `None` when the
    /// snapshot is not there.
    pub(crate) fn clone_tree(&self, from: &str, path: &str) -> Result<Option<Work>, StoreError> {
        if !self.clone_one(&self.dataset(from), &self.dataset(path))? {
            return Ok(None);
        }
        if self.mounter.wants_tree_apart() {
            let mut children = Vec::new();
            for (number, (child, _)) in CHILDREN.iter().enumerate() {
                let [base, clone] =
                    [from, path].map(|path| self.dataset(&format!("{path}/{child}")));
                if self.clone_one(&base, &clone)? {
                    children.push(number);
                }
            }
            if children.contains(&0) {
                return self.show_apart(path, children).map(Some);
            }
        }
        self.show_made(path)?;
        let dir = self.dir(path);
        remove_files(&dir)?;
        make_tree_dir(&dir)?;
        let children = self.clone_children(from, path, &dir)?;
        Ok(Some(Work { dir, children }))
    }

    /// Clones the children of what is at `from`, where they can be found by mounting them.
    fn clone_children(&self, from: &str, path: &str, dir: &Path) -> Result<Children, StoreError> {
        let mut children = Vec::new();
        for (number, (child, place)) in CHILDREN.iter().enumerate() {
            let at = dir.join(place);
            let there = at.symlink_metadata().is_ok_and(|found| found.is_dir());
            // A prefix is in a home, so there is none without one.
            if number > 0 && children.is_empty() {
                break;
            }
            let [base, clone] = [from, path].map(|path| self.dataset(&format!("{path}/{child}")));
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
        Ok(children)
    }

    /// Mounts a tree that is a dataset of its own. Its log and the like are plain files meanwhile: who follows a log would
    /// keep its dataset from being unmounted.
    fn show_apart(&self, path: &str, children: Children) -> Result<Work, StoreError> {
        let dir = self.made(path);
        make_dir(&dir)?;
        make_tree_dir(&dir)?;
        for number in &children {
            let (child, place) = CHILDREN[*number];
            let at = dir.join(place);
            make_dir(&at)?;
            self.mounter.mount(&self.zfs, &self.dataset(&format!("{path}/{child}")), false, &at)?;
        }
        Ok(Work { dir, children })
    }

    /// Unmounts what was worked in, and takes its snapshot: nothing in it changes any more.
    pub(crate) fn finish(&self, path: &str, work: &Work) -> Result<(), StoreError> {
        self.hide(path, true)?;
        let dir = self.dir(path);
        if work.dir != dir {
            self.show_made(path)?;
            remove_files(&dir)?;
            make_tree_dir(&dir)?;
            for name in files(&work.dir)? {
                let (from, to) = (work.dir.join(&name), dir.join(&name));
                fs::copy(&from, &to).map_err(|e| failed("copy", &from, e))?;
            }
            self.hide(path, true)?;
        }
        self.snapshot(path, &work.children)
    }

    /// Removes the plain files that were beside the tree at `path` while it was worked in.
    pub(crate) fn remove_made(&self, path: &str) -> Result<(), StoreError> {
        let dir = self.made(path);
        if !dir.exists() {
            return Ok(());
        }
        for name in files(&dir)? {
            let file = dir.join(name);
            fs::remove_file(&file).map_err(|e| failed("remove", &file, e))?;
        }
        remove_dir(&dir.join("rootfs"))?;
        remove_dir(&dir)
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

    /// Tries once to destroy what is at `path`; says whether it has gone.
    pub(crate) fn destroyed_at_once(&self, path: &str) -> bool {
        self.zfs.run(&["destroy", "-r", &self.dataset(path)]).is_ok()
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

/// Names of what is in `dir` besides the tree.
fn files(dir: &Path) -> Result<Vec<OsString>, StoreError> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|e| failed("list", dir, e))?;
    Ok(entries.iter().map(fs::DirEntry::file_name).filter(|name| name != "rootfs").collect())
}

/// Everything but the tree is the base's own.
fn remove_files(dir: &Path) -> Result<(), StoreError> {
    files(dir)?.iter().try_for_each(|name| remove(&dir.join(name)))
}

/// Removes a file or a tree.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let action = || format!("remove `{}`", path.display());
    remove_tree(path).map_err(|e| StoreError::Failed { action: action(), source: e.into() })
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
