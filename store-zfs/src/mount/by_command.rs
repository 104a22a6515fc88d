//! Mounting by `zfs mount`, which works wherever `zfs` does, and takes several commands for what the kernel does in one call.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use obuilder_core::contracts::{Carrier, Carry};
use obuilder_core::error::StoreError;

use super::{CHILDREN, Mounter};
use crate::command::Zfs;
use crate::layout::{Place, SNAPSHOT};

/// The commands. A snapshot is shown by its dataset, which nobody writes to after the snapshot was taken.
#[derive(Debug)]
pub(crate) struct ByCommand;

/// What mounting needs to know of a dataset.
struct Found {
    name: String,
    mounted: bool,
    mountpoint: String,
}

/// The dataset and all below it that are there, the dataset first.
fn find(zfs: &Zfs, dataset: &str) -> Result<Vec<Found>, StoreError> {
    let wanted = ["-r", "-t", "filesystem", "-o", "name,mounted,mountpoint", dataset];
    let found = zfs.table(&wanted)?.into_iter().map(|row| Found {
        mounted: row[1] == "yes",
        mountpoint: row[2].clone(),
        name: row[0].clone(),
    });
    Ok(found.collect())
}

impl Mounter for ByCommand {
    fn mount(
        &self,
        zfs: &Zfs,
        dataset: &str,
        snapshot: bool,
        at: &Path,
    ) -> Result<bool, StoreError> {
        let Some(found) = find(zfs, dataset)?.into_iter().next() else { return Ok(false) };
        if snapshot && !zfs.exists(&format!("{dataset}@{SNAPSHOT}"))? {
            return Ok(false);
        }
        let action = format!("mount `{dataset}` at `{}`", at.display());
        let at = at.to_string_lossy();
        if found.mountpoint != at {
            zfs.act(&action, &["set", &format!("mountpoint={at}"), dataset])?;
        }
        if !found.mounted {
            zfs.act(&action, &["mount", dataset])?;
        }
        Ok(true)
    }

    fn unmount(&self, zfs: &Zfs, dataset: &str, _: &Path, force: bool) -> Result<(), StoreError> {
        let mut mounted = find(zfs, dataset)?;
        mounted.retain(|found| found.mounted);
        // What is mounted in another goes first.
        mounted.sort_by_key(|found| std::cmp::Reverse(found.mountpoint.len()));
        for found in mounted {
            let action = format!("unmount `{}`", found.name);
            let plain = zfs.act_patiently(&action, &["unmount", &found.name], || true);
            plain.or_else(|error| match force {
                true => zfs.act(&action, &["unmount", "-f", &found.name]),
                false => Err(error),
            })?;
        }
        Ok(())
    }

    fn is_mounted(&self, zfs: &Zfs, dataset: &str, _: &Path) -> Result<bool, StoreError> {
        Ok(find(zfs, dataset)?.first().is_some_and(|found| found.mounted))
    }

    fn carry(&self, program: &OsStr, place: &Place) -> Carry {
        Carry::new(SetMountpoint { program: program.to_owned(), place: place.clone() })
    }

    fn wants_tree_apart(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "mounts by `zfs mount`"
    }
}

/// A dataset is mounted elsewhere.
#[derive(Debug)]
struct SetMountpoint {
    program: OsString,
    place: Place,
}

impl SetMountpoint {
    /// The dataset that is mounted at `dir`, and its sister that is shown in it, if there may be one.
    fn datasets(&self, dir: &Path) -> io::Result<(String, Option<String>)> {
        let below = dir.strip_prefix(&self.place.root).map_err(|_| not_ours(dir))?;
        let below = below.to_str().ok_or_else(|| not_ours(dir))?;
        let dataset = |path: &str| format!("{}/{path}", self.place.pool);
        let [(home, rootfs), (brew, _)] = CHILDREN;
        match below
            .strip_prefix("state/obuild-zfs/made/")
            .and_then(|made| made.strip_suffix(rootfs))
        {
            Some(made) => {
                let [tree, sister] =
                    [home, brew].map(|child| dataset(&format!("result-tmp/{made}{child}")));
                Ok((tree, Some(sister)))
            }
            None => Ok((dataset(below), None)),
        }
    }

    fn move_to(&self, dir: &Path, at: &Path) -> io::Result<()> {
        let zfs = Zfs::new(&self.program, &self.place.pool);
        let (dataset, sister) = self.datasets(dir)?;
        let sister = match sister {
            Some(sister) => find(&zfs, &sister).map_err(io::Error::other)?.into_iter().next(),
            None => None,
        };
        let act = |arguments: &[&str]| {
            zfs.act_patiently("carry a tree", arguments, || true).map_err(io::Error::other)
        };
        // One that is mounted is mounted anew by that, but not if the first try has failed half way.
        let mount_at = |path: PathBuf, dataset: &str| {
            act(&["set", &format!("mountpoint={}", path.to_string_lossy()), dataset])?;
            let found = find(&zfs, dataset).map_err(io::Error::other)?;
            let mounted = found.first().is_some_and(|found| found.mounted);
            if mounted { Ok(()) } else { act(&["mount", dataset]) }
        };
        if let Some(sister) = sister.as_ref().filter(|sister| sister.mounted) {
            act(&["unmount", &sister.name])?;
        }
        mount_at(at.to_owned(), &dataset)?;
        let Some(sister) = sister else { return Ok(()) };
        let [(_, rootfs), (_, local)] = CHILDREN;
        let below = local.strip_prefix(rootfs).unwrap_or(local).trim_start_matches('/');
        mount_at(at.join(below), &sister.name)
    }
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
}
