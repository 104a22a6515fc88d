//! What the stand-in knows of its pool, and ZFS's rules about it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A mount point that is none.
pub(crate) const NONE: &str = "none";

pub(crate) type Done<T = ()> = Result<T, String>;

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// Where everything that is not mounted lies.
    pub(crate) dir: PathBuf,
    pub(crate) next: u64,
    pub(crate) datasets: BTreeMap<String, Dataset>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Dataset {
    pub(crate) number: u64,
    pub(crate) mountpoint: Option<String>,
    pub(crate) noauto: bool,
    pub(crate) mounted: Option<PathBuf>,
    /// Of what is mounted.
    pub(crate) inode: u64,
    /// DATASET@SNAPSHOT
    pub(crate) origin: Option<String>,
    /// The oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) number: u64,
    /// To be destroyed when its last clone has gone.
    pub(crate) deferred: bool,
}

/// Moves the datasets of a pool in and out of their mount points, by renaming them.
impl Pool {
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn get(&self, name: &str) -> Done<&Dataset> {
        self.datasets
            .get(name)
            .ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Done<&mut Dataset> {
        self.datasets
            .get_mut(name)
            .ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))
    }

    pub(crate) fn snapshot(&self, full: &str) -> Done<&Snapshot> {
        let missing = || format!("cannot open '{full}': dataset does not exist");
        let (dataset, name) = full.split_once('@').ok_or_else(missing)?;
        let found = self.get(dataset)?.snapshots.iter().find(|one| one.name == name);
        found.ok_or_else(missing)
    }

    pub(crate) fn clones(&self, full: &str) -> Vec<String> {
        let of = |(_, dataset): &(&String, &Dataset)| dataset.origin.as_deref() == Some(full);
        self.datasets.iter().filter(of).map(|(name, _)| name.clone()).collect()
    }

    /// The dataset and all below it.
    pub(crate) fn below(&self, name: &str) -> Vec<String> {
        let inside = format!("{name}/");
        let names = self.datasets.keys();
        names.filter(|one| *one == name || one.starts_with(&inside)).cloned().collect()
    }

    pub(crate) fn mountpoint(&self, name: &str) -> String {
        let own = self.datasets.get(name).and_then(|dataset| dataset.mountpoint.clone());
        match (own, name.rsplit_once('/')) {
            (Some(own), _) => own,
            (None, Some((parent, last))) => match self.mountpoint(parent) {
                none if none == NONE => none,
                parent => format!("{parent}/{last}"),
            },
            (None, None) => format!("/{name}"),
        }
    }

    /// Where the files of a dataset are now.
    pub(crate) fn live(&self, name: &str) -> Done<PathBuf> {
        let dataset = self.get(name)?;
        let stored = self.dir.join(dataset.number.to_string());
        Ok(dataset.mounted.clone().unwrap_or(stored))
    }

    pub(crate) fn saved(&self, full: &str) -> Done<PathBuf> {
        Ok(self.dir.join(self.snapshot(full)?.number.to_string()))
    }

    pub(crate) fn mount(&mut self, name: &str) -> Done {
        let at = PathBuf::from(self.mountpoint(name));
        let failed = |error: std::io::Error| format!("cannot mount '{}': {error}", at.display());
        if self.get(name)?.mounted.is_some() {
            return Err(format!("cannot mount '{name}': filesystem already mounted"));
        }
        if at == Path::new(NONE) {
            return Err(format!("cannot mount '{name}': no mountpoint set"));
        }
        let (live, number) = (self.live(name)?, self.get(name)?.number);
        let moved = fs::create_dir_all(&at).and_then(|()| fs::rename(&at, self.under(number)));
        moved.and_then(|()| fs::rename(live, &at)).map_err(failed)?;
        let dataset = self.get_mut(name)?;
        dataset.inode = fs::metadata(&at).map_err(failed)?.ino();
        dataset.mounted = Some(at);
        Ok(())
    }

    /// Where a directory is that a dataset is mounted over.
    fn under(&self, number: u64) -> PathBuf {
        self.dir.join(format!("under-{number}"))
    }

    /// What was unmounted by others, as one unmounts with `umount`, is not mounted; such a mount's files are lost here.
    pub(crate) fn notice_unmounts(&mut self) -> Done {
        let gone = |dataset: &&mut Dataset| {
            let found = dataset.mounted.as_ref().map(fs::metadata);
            found.is_some_and(|found| !found.is_ok_and(|found| found.ino() == dataset.inode))
        };
        for dataset in self.datasets.values_mut().filter_map(|one| Some(one).filter(gone)) {
            dataset.mounted = None;
            let dir = self.dir.join(dataset.number.to_string());
            fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    pub(crate) fn unmount(&mut self, name: &str) -> Done {
        let Some(at) = self.get(name)?.mounted.clone() else {
            return Err(format!("cannot unmount '{name}': not currently mounted"));
        };
        let inside = |other: &Dataset| {
            other.mounted.as_ref().is_some_and(|path| *path != at && path.starts_with(&at))
        };
        if self.datasets.values().any(inside) || is_used(&at) {
            return Err(format!("cannot unmount '{}': pool or dataset is busy", at.display()));
        }
        let failed = |error: std::io::Error| format!("cannot unmount '{}': {error}", at.display());
        let number = self.get(name)?.number;
        let stored = self.dir.join(number.to_string());
        fs::rename(&at, stored)
            .and_then(|()| fs::rename(self.under(number), &at))
            .map_err(failed)?;
        self.get_mut(name)?.mounted = None;
        Ok(())
    }

    /// Unmounts it if it is mounted; says whether it was.
    pub(crate) fn hide(&mut self, name: &str) -> Done<bool> {
        let mounted = self.get(name)?.mounted.is_some();
        if mounted { self.unmount(name).map(|()| true) } else { Ok(false) }
    }

    /// Bytes that are the dataset's own, and those of all below it.
    pub(crate) fn used(&self, name: &str) -> Done<u64> {
        let size = |path: PathBuf| tree_copy::tree_size(&path).map_or(0, |size| size.freed);
        let mut sum = 0;
        for one in self.below(name) {
            let shared = self.get(&one)?.origin.clone().and_then(|full| self.saved(&full).ok());
            sum += size(self.live(&one)?).saturating_sub(shared.map_or(0, size));
        }
        Ok(sum)
    }
}

/// Whether a process has its working directory or an open file in `dir`.
fn is_used(dir: &Path) -> bool {
    let leads_in = |link: &Path| fs::read_link(link).is_ok_and(|path| path.starts_with(dir));
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    entries(Path::new("/proc")).any(|process| {
        let process = process.path();
        leads_in(&process.join("cwd"))
            || entries(&process.join("fd")).any(|open| leads_in(&open.path()))
    })
}
