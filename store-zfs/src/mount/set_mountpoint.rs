//! Taking a dataset to where a step sees it, by its mount point.

use std::io;
use std::path::Path;
use std::sync::Arc;

use obuilder_core::contracts::Carrier;

use super::table::{self, Table};
use super::{CHILDREN, LOCAL};
use crate::command::Zfs;
use crate::layout::Place;
use crate::openings::Openings;

/// A dataset is mounted elsewhere.
#[derive(Debug)]
pub(super) struct SetMountpoint {
    zfs: Zfs,
    place: Place,
    table: Arc<Table>,
    openings: Arc<Openings>,
}

impl SetMountpoint {
    pub(super) fn new(
        zfs: &Zfs,
        place: &Place,
        table: Arc<Table>,
        openings: Arc<Openings>,
    ) -> Self {
        Self { zfs: zfs.clone(), place: place.clone(), table, openings }
    }

    /// The dataset that is mounted at `dir`, and its sister that is shown in it, if there may be one.
    fn datasets(&self, dir: &Path) -> io::Result<(String, Option<String>)> {
        let below = dir.strip_prefix(&self.place.root).map_err(|_| not_ours(dir))?;
        let below = below.to_str().ok_or_else(|| not_ours(dir))?;
        let dataset = |path: &str| format!("{}/{path}", self.place.pool);
        let [(home, rootfs), (brew, _)] = CHILDREN;
        let made = below.strip_prefix("state/obuild-zfs/made/");
        match made.and_then(|made| made.strip_suffix(rootfs)) {
            Some(made) => {
                let [tree, sister] =
                    [home, brew].map(|child| dataset(&format!("result-tmp/{made}{child}")));
                Ok((tree, Some(sister)))
            }
            None => Ok((dataset(below), None)),
        }
    }

    fn move_to(&self, dir: &Path, at: &Path) -> io::Result<()> {
        let zfs = &self.zfs;
        let (dataset, sister) = self.datasets(dir)?;
        let sister = match sister {
            Some(sister) => self.table.find_one(zfs, &sister).map_err(io::Error::other)?,
            None => None,
        };
        if let Some(sister) = sister.as_ref().filter(|sister| sister.mounted) {
            self.unmount(&sister.name)?;
        }
        self.mount_at(&dataset, at, true)?;
        let Some(sister) = sister else { return Ok(()) };
        self.mount_at(&sister.name, &at.join(LOCAL), false)
    }

    /// A step's end may have unmounted it already, as it does with all that is mounted in a tree.
    fn unmount(&self, dataset: &str) -> io::Result<()> {
        let is_mounted = || table::is_mounted(&self.zfs, dataset).unwrap_or(true);
        let words = ["unmount", dataset];
        let done = self.zfs.act_patiently("carry a tree", &words, is_mounted);
        done.or_else(|error| if is_mounted() { Err(io::Error::other(error)) } else { Ok(()) })?;
        self.table.note(dataset, false, None);
        Ok(())
    }

    /// One that is mounted is mounted anew by that, but not if the first try has failed half way.
    fn mount_at(&self, dataset: &str, at: &Path, mounted: bool) -> io::Result<()> {
        let zfs = &self.zfs;
        let set = format!("mountpoint={}", at.to_string_lossy());
        let words = ["set", &set, dataset];
        if mounted && zfs.run(&words).is_ok() {
            self.table.note(dataset, true, Some(at));
            return Ok(());
        }
        act(zfs, &words)?;
        let is_mounted = || table::is_mounted(zfs, dataset).map_err(io::Error::other);
        // One that was not mounted is not by that either.
        let done = if mounted { is_mounted()? } else { zfs.run(&["mount", dataset]).is_ok() };
        if !done && !is_mounted()? {
            act(zfs, &["mount", dataset])?;
        }
        self.table.note(dataset, true, Some(at));
        Ok(())
    }
}

fn act(zfs: &Zfs, arguments: &[&str]) -> io::Result<()> {
    zfs.act_patiently("carry a tree", arguments, || true).map_err(io::Error::other)
}

fn not_ours(dir: &Path) -> io::Error {
    io::Error::other(format!("`{}` is no dataset of this store", dir.display()))
}

impl Carrier for SetMountpoint {
    fn carry(&self, dir: &Path, to: &Path) -> io::Result<()> {
        self.move_to(dir, to)
    }

    fn bring_back(&self, _: &Path, dir: &Path) -> io::Result<()> {
        self.move_to(dir, dir)
    }

    fn mounts(&self) -> bool {
        true
    }

    /// A `zfs` that is still under way may yet mount something there.
    fn settle(&self) -> io::Result<()> {
        self.openings.settle().map_err(io::Error::other)
    }

    fn inside(&self, dir: &Path) -> Option<&'static str> {
        let (_, sister) = self.datasets(dir).ok()?;
        self.table.find_one(&self.zfs, &sister?).ok()??.mounted.then_some(LOCAL)
    }
}
