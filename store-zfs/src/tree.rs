//! Trees: a dataset with its children, mounted together.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use obuilder_core::error::StoreError;
use tree_copy::remove_tree;

use crate::layout::{Pool, SNAPSHOT, failed};
use crate::mount::{CHILDREN, is_place};

/// How often what is there is cloned, if others delete it and make it anew meanwhile.
const TRIES: u32 = 5;

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
    /// Mounts the snapshots of what lies at `path` below the pool in its directory, to be read, unless they are mounted there. Says
    /// whether there are any.
    pub(crate) fn show(&self, path: &str) -> Result<bool, StoreError> {
        let dir = self.dir(path);
        make_dir(&dir)?;
        let shown = self.mounter.show(&self.zfs, &self.dataset(path), &dir);
        if !matches!(shown, Ok(true)) {
            remove_dir(&dir)?;
        }
        shown
    }

    /// Unmounts it all again, and removes the directory. If it is in use and not `force`d, it stays.
    pub(crate) fn hide(&self, path: &str, force: bool) -> Result<(), StoreError> {
        self.hide_in(&self.dir(path), path, force)
    }

    /// The same of what is mounted in `dir`.
    pub(crate) fn hide_in(&self, dir: &Path, path: &str, force: bool) -> Result<(), StoreError> {
        // A cache has nothing below it, and a step may have made anything in it.
        let children = !path.starts_with("cache-tmp/");
        self.mounter.unmount(&self.zfs, &self.dataset(path), dir, children, force)?;
        remove_dir(dir)
    }

    /// Makes a dataset at `path` with an empty tree, and mounts it to be worked in.
    pub(crate) fn create_tree(&self, path: &str) -> Result<Work, StoreError> {
        let create = |dataset: &str, more: &[&str], at: &Path| {
            let words = [&["create", "-o", "canmount=noauto"], more, &[dataset]].concat();
            self.zfs.act(&format!("create `{dataset}`"), &words)?;
            self.mounter.born(dataset, at);
            Ok::<_, StoreError>(())
        };
        create(&self.dataset(path), &[], &self.dir(path))?;
        if self.mounter.wants_tree_apart() {
            let (child, place) = CHILDREN[0];
            let at = self.made(path).join(place);
            let mountpoint = format!("mountpoint={}", at.display());
            create(&self.dataset(&format!("{path}/{child}")), &["-o", &mountpoint], &at)?;
            return self.show_apart(path, vec![0]);
        }
        self.show_made(path)?;
        make_tree_dir(&self.dir(path))?;
        Ok(Work { dir: self.dir(path), children: Vec::new() })
    }

    /// Clones the snapshot of what is at `from` to a `path` that nobody else uses, with all its children, and mounts the clone to be
    /// worked in. `None` when the snapshot is not there.
    pub(crate) fn clone_tree(&self, from: &str, path: &str) -> Result<Option<Work>, StoreError> {
        for _ in 0..TRIES {
            if !self.clone_one(from, path, None)? {
                return Ok(None);
            }
            if let Some(work) = self.clone_below(from, path, &self.dir(path))? {
                return Ok(Some(work));
            }
            // Somebody has deleted it since, and has perhaps made it anew.
            self.known.forget(from);
            self.hide(path, true)?;
            self.destroy(path)?;
        }
        let action = format!("clone what is below `{}`", self.dataset(from));
        Err(StoreError::Failed { action, source: "it is gone again and again".into() })
    }

    /// The same for what the result has below it, and mounts it all in `dir`. `None` when that is not there any more.
    pub(crate) fn clone_below(
        &self,
        from: &str,
        path: &str,
        dir: &Path,
    ) -> Result<Option<Work>, StoreError> {
        if self.mounter.wants_tree_apart() {
            let children = self.children_of(from)?;
            if !self.clone_known(from, path, &children, Some(&self.made(path)))? {
                return Ok(None);
            }
            if children.contains(&0) {
                return self.show_apart(path, children).map(Some);
            }
        }
        make_dir(dir)?;
        self.mount_made(path, dir)?;
        remove_files(dir)?;
        make_tree_dir(dir)?;
        let dir = dir.to_owned();
        if let Some(children) = self.known.get(from) {
            if !self.clone_known(from, path, &children, None)? {
                return Ok(None);
            }
            for number in &children {
                let (child, place) = CHILDREN[*number];
                let at = dir.join(place);
                make_place(&at)?;
                self.mount_made(&format!("{path}/{child}"), &at)?;
            }
            return Ok(Some(Work { dir, children }));
        }
        let children = self.clone_children(from, path, &dir)?;
        Ok(children.map(|children| Work { dir, children }))
    }

    /// Clones these children of what is at `from`, to be mounted in `made` if that is given. Says whether they were all there.
    fn clone_known(
        &self,
        from: &str,
        path: &str,
        children: &Children,
        made: Option<&Path>,
    ) -> Result<bool, StoreError> {
        let names = children.iter().map(|number| {
            let (child, place) = CHILDREN[*number];
            let [base, clone] = [from, path].map(|path| format!("{path}/{child}"));
            (base, clone, made.map(|made| made.join(place)))
        });
        let names: Vec<_> = names.collect();
        // One alone is cloned as everything is.
        let together = names.iter().filter(|_| names.len() > 1);
        let calls: Vec<_> =
            together.map(|(base, clone, at)| self.clone_call(base, clone, at.as_deref())).collect();
        let done = self.zfs.run_at_once(&calls);
        for (number, (base, clone, at)) in names.iter().enumerate() {
            let at = at.as_deref();
            if done.get(number) == Some(&true) {
                self.mounter.born(&self.dataset(clone), at.unwrap_or(&self.dir(clone)));
            } else if !self.clone_one(base, clone, at)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Clones the children of what is at `from`, where they can be found by mounting them. `None` when one has gone meanwhile.
    fn clone_children(
        &self,
        from: &str,
        path: &str,
        dir: &Path,
    ) -> Result<Option<Children>, StoreError> {
        let mut children = Vec::new();
        for (number, (child, place)) in CHILDREN.iter().enumerate() {
            let at = dir.join(place);
            let there = is_place(dir, place);
            // A prefix is in a home, so there is none without one.
            if number > 0 && children.is_empty() {
                break;
            }
            let [base, clone] = [from, path].map(|path| format!("{path}/{child}"));
            let dataset = self.dataset(&base);
            if !self.mounter.has_snapshot(&self.zfs, &dataset, there.then_some(&at))? {
                continue;
            }
            if !there {
                make_place(&at)?;
            }
            if !self.clone_one(&base, &clone, None)? {
                return Ok(None);
            }
            self.mount_made(&clone, &at)?;
            children.push(number);
        }
        Ok(Some(children))
    }

    /// Which children of what is at `from` have our snapshot. What this process made itself, or has seen at its start, it need
    /// not ask for.
    pub(crate) fn children_of(&self, from: &str) -> Result<Children, StoreError> {
        if let Some(children) = self.known.get(from) {
            return Ok(children);
        }
        let dataset = self.dataset(from);
        let rows = self.zfs.table(&["-r", "-t", "snapshot", "-o", "name"], &[&dataset])?;
        let there = |child: &str| {
            let name = format!("{dataset}/{child}@{SNAPSHOT}");
            rows.iter().any(|row| row[0] == name)
        };
        Ok((0..CHILDREN.len()).filter(|number| there(CHILDREN[*number].0)).collect())
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
            make_place(&at)?;
            self.mount_made(&format!("{path}/{child}"), &at)?;
        }
        Ok(Work { dir, children })
    }

    /// Takes the snapshot of what was worked in, and unmounts it: nothing in it changes any more.
    pub(crate) fn finish(&self, path: &str, work: &Work) -> Result<(), StoreError> {
        if self.mounter.flush(&work.dir, &work.children)? {
            // Unmounting what has changed since the pool was last written waits for that; after the snapshot nothing has.
            self.snapshot(path, &work.children)?;
            return self.hide_in(&work.dir, path, true);
        }
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

    /// Clones one snapshot, both named by their paths below the pool, to be mounted by us alone, in its directory or at `at`; says
    /// whether it was there.
    pub(crate) fn clone_one(
        &self,
        from: &str,
        path: &str,
        at: Option<&Path>,
    ) -> Result<bool, StoreError> {
        let (snapshot, to) = (format!("{}@{SNAPSHOT}", self.dataset(from)), self.dataset(path));
        let call = self.clone_call(from, path, at);
        let words: Vec<_> = call.iter().map(String::as_str).collect();
        let action = format!("clone `{snapshot}` to `{to}`");
        let mut done = self.zfs.act(&action, &words);
        for _ in 1..TRIES {
            if done.is_ok() || !self.zfs.exists(&snapshot)? {
                break;
            }
            // Perhaps it was not, and somebody has made it anew since.
            done = self.zfs.act(&action, &words);
        }
        match done {
            Ok(()) => {
                self.mounter.born(&to, &at.map_or_else(|| self.dir(path), Path::to_owned));
                Ok(true)
            }
            Err(_) if !self.zfs.exists(&snapshot)? => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Mounts what was made a moment ago.
    pub(crate) fn show_made(&self, path: &str) -> Result<(), StoreError> {
        let dir = self.dir(path);
        make_dir(&dir)?;
        self.mount_made(path, &dir)
    }

    /// The same at the directory `at`.
    pub(crate) fn mount_made(&self, path: &str, at: &Path) -> Result<(), StoreError> {
        let dataset = self.dataset(path);
        match self.mounter.mount(&self.zfs, &dataset, at)? {
            true => Ok(()),
            false => Err(failed(&format!("mount `{dataset}` at"), at, ErrorKind::NotFound.into())),
        }
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
        let action = format!("rename `{from}` to `{to}`");
        self.zfs.act_patiently(&action, &["rename", &from, &to], worth)?;
        self.mounter.parted(&from);
        Ok(())
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
        done.or_else(|error| if self.zfs.exists(&dataset)? { Err(error) } else { Ok(()) })?;
        self.mounter.parted(&dataset);
        Ok(())
    }

    /// Tries once to clone the snapshot of what is at `from`, but nothing below it; says whether it was done.
    pub(crate) fn cloned_at_once(&self, from: &str, path: &str) -> bool {
        self.zfs.run_at_once(&[self.clone_call(from, path, None)]) == [true]
    }

    /// How `zfs` is told to clone one snapshot, to be mounted by us alone.
    fn clone_call(&self, from: &str, path: &str, at: Option<&Path>) -> Vec<String> {
        let mut words = vec!["clone".to_owned(), "-o".to_owned(), "canmount=noauto".to_owned()];
        if let Some(at) = at {
            words.extend(["-o".to_owned(), format!("mountpoint={}", at.display())]);
        }
        words.extend([format!("{}@{SNAPSHOT}", self.dataset(from)), self.dataset(path)]);
        words
    }

    /// Renames a dataset that stays mounted where it is.
    pub(crate) fn rename_mounted(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let (from, to) = (self.dataset(from), self.dataset(to));
        self.zfs.act(&format!("rename `{from}` to `{to}`"), &["rename", "-u", &from, &to])
    }

    /// Tries once to destroy what is at `path`; says whether it has gone.
    pub(crate) fn destroyed_at_once(&self, path: &str) -> bool {
        let dataset = self.dataset(path);
        let gone = self.zfs.run(&["destroy", "-r", &dataset]).is_ok();
        if gone {
            self.mounter.parted(&dataset);
        }
        gone
    }

    fn has_clones(&self, dataset: &str) -> bool {
        self.clones(dataset).is_ok_and(|clones| !clones.is_empty())
    }

    /// Snapshots in `dataset` that have clones, each with one of them.
    pub(crate) fn clones(&self, dataset: &str) -> Result<Vec<(String, Vec<String>)>, StoreError> {
        let rows = self.zfs.table(&["-r", "-t", "snapshot", "-o", "name,clones"], &[dataset])?;
        let cloned = rows.into_iter().filter(|row| !matches!(row[1].as_str(), "" | "-"));
        Ok(cloned
            .map(|row| (row[0].clone(), row[1].split(',').map(str::to_owned).collect()))
            .collect())
    }
}

/// A place to mount at, for nobody else.
pub(crate) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed("make", dir, error)),
        _ => Ok(()),
    }
}

/// The same in a tree, where a step or an image may have put a link, say, which leads elsewhere.
pub(crate) fn make_place(at: &Path) -> Result<(), StoreError> {
    match at.symlink_metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => remove(at)?,
        Err(_) => {}
    }
    make_dir(at)
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
