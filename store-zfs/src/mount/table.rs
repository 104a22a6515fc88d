//! What this process knows of datasets without asking `zfs`: those it has made, which nobody else has to do with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use obuilder_core::error::StoreError;

use crate::command::Zfs;

/// What mounting needs to know of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) mounted: bool,
    pub(super) mountpoint: PathBuf,
    /// Whether it is never mounted by itself: not when the pool comes up, nor when it gets a mount point.
    pub(super) noauto: bool,
}

/// Those that this process has made, by name.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<BTreeMap<String, Found>>);

impl Table {
    fn own(&self) -> MutexGuard<'_, BTreeMap<String, Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn born(&self, dataset: &str, at: &Path) {
        let found = Found {
            name: dataset.to_owned(),
            mounted: false,
            mountpoint: at.to_owned(),
            noauto: true,
        };
        self.own().insert(dataset.to_owned(), found);
    }

    pub(super) fn parted(&self, dataset: &str) {
        self.own().retain(|name, _| !is_in(name, dataset));
    }

    /// Notes where one of them is now; one of others is asked for every time.
    pub(super) fn note(&self, dataset: &str, mounted: bool, mountpoint: Option<&Path>) {
        if let Some(found) = self.own().get_mut(dataset) {
            found.mounted = mounted;
            found.mountpoint = mountpoint.map_or_else(|| found.mountpoint.clone(), Path::to_owned);
        }
    }

    /// The dataset and all below it that are there, the dataset first.
    pub(super) fn find(&self, zfs: &Zfs, dataset: &str) -> Result<Vec<Found>, StoreError> {
        {
            let own = self.own();
            if own.contains_key(dataset) {
                let inside = own.values().filter(|found| is_in(&found.name, dataset));
                return Ok(inside.cloned().collect());
            }
        }
        look(zfs, dataset)
    }

    /// The dataset alone, if it is there. One below a dataset of this process is, if this process has made it.
    pub(super) fn find_one(&self, zfs: &Zfs, dataset: &str) -> Result<Option<Found>, StoreError> {
        if let Some((parent, _)) = dataset.rsplit_once('/') {
            let own = self.own();
            if own.contains_key(parent) {
                return Ok(own.get(dataset).cloned());
            }
        }
        Ok(self.find(zfs, dataset)?.into_iter().next())
    }
}

/// What [`read`] wants to know.
pub(super) const COLUMNS: &str = "name,mounted,mountpoint,canmount";

/// The same as `zfs` tells it.
fn look(zfs: &Zfs, dataset: &str) -> Result<Vec<Found>, StoreError> {
    let wanted = ["-r", "-t", "filesystem", "-o", COLUMNS];
    Ok(zfs.table(&wanted, &[dataset])?.iter().map(|row| read(row)).collect())
}

/// Whether it is mounted, as `zfs` tells it.
pub(super) fn is_mounted(zfs: &Zfs, dataset: &str) -> Result<bool, StoreError> {
    Ok(look(zfs, dataset)?.first().is_some_and(|found| found.mounted))
}

/// Whether it is mounted at `at`, as `zfs` tells it.
pub(super) fn is_mounted_at(zfs: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError> {
    Ok(look(zfs, dataset)?.first().is_some_and(|found| found.mounted && found.mountpoint == at))
}

/// A row of [`COLUMNS`].
pub(super) fn read(row: &[String]) -> Found {
    Found {
        name: row[0].clone(),
        mounted: row[1] == "yes",
        mountpoint: PathBuf::from(&row[2]),
        noauto: row[3] != "on",
    }
}

fn is_in(name: &str, dataset: &str) -> bool {
    name.strip_prefix(dataset).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn own_datasets_are_known_without_a_command() {
        let (zfs, table) = (Zfs::new("/nowhere/zfs".as_ref(), "tank"), Table::default());
        table.born("tank/a", Path::new("/tank/a"));
        table.born("tank/a/home", Path::new("/there"));
        table.note("tank/a/home", true, None);
        table.born("tank/ab", Path::new("/tank/ab"));
        let names = |found: Vec<Found>| found.into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(table.find(&zfs, "tank/a").unwrap()), ["tank/a", "tank/a/home"]);
        assert!(table.find_one(&zfs, "tank/a/home").unwrap().unwrap().mounted);
        assert_eq!(table.find_one(&zfs, "tank/a/brew").unwrap(), None);
        assert_eq!(zfs.ran(), 0);
        table.parted("tank/a");
        assert!(table.find(&zfs, "tank/a").is_err(), "now it is to be asked for");
        assert_eq!(names(table.find(&zfs, "tank/ab").unwrap()), ["tank/ab"]);
    }
}
