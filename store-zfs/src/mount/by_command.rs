//! Mounting by `zfs mount`, which works wherever `zfs` does, and takes several commands for what the kernel does in one call.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use obuilder_core::contracts::Carry;
use obuilder_core::error::StoreError;

use super::set_mountpoint::SetMountpoint;
use super::table::{self, Found, Table};
use super::{CHILDREN, Mounter, is_place};
use crate::command::Zfs;
use crate::layout::{Place, SNAPSHOT};
use crate::openings::Openings;

/// For what nothing is to write to, for as long as it is mounted.
const READ_ONLY: &[&str] = &["-o", "ro"];

/// The mount point of what OBuilder has nowhere.
const NONE: &str = "none";

/// The commands. A snapshot is shown by its dataset, which nobody writes to after the snapshot was taken.
#[derive(Debug, Default)]
pub(crate) struct ByCommand {
    table: Arc<Table>,
    /// Those that OBuilder has nowhere, and this process has mounted somewhere.
    moved: Mutex<BTreeSet<String>>,
}

impl ByCommand {
    fn moved(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mounts what is not mounted. Before it gets a mount point, it must not be of those that are mounted by themselves, as
    /// OBuilder's are: at once now, and whenever the pool comes up from then on.
    fn mount_found(
        &self,
        zfs: &Zfs,
        found: &Found,
        at: &Path,
        more: &[&str],
    ) -> Result<(), StoreError> {
        let (name, action) = (&found.name, format!("mount `{}` at `{}`", found.name, at.display()));
        if found.mountpoint != at {
            if !found.noauto {
                zfs.act(&action, &["set", "canmount=noauto", name])?;
            }
            zfs.act(&action, &["set", &format!("mountpoint={}", at.to_string_lossy()), name])?;
        }
        if !found.mounted {
            let mounted = zfs.act(&action, &[&["mount"], more, &[name]].concat());
            // Somebody else may have done it since we looked.
            mounted.or_else(|error| match table::is_mounted_at(zfs, name, at)? {
                true => Ok(()),
                false => Err(error),
            })?;
        }
        if found.mountpoint == Path::new(NONE) {
            self.moved().insert(name.clone());
        }
        self.table.note(name, true, Some(at));
        Ok(())
    }

    /// What OBuilder has nowhere is nowhere again; that unmounts it too.
    fn unmount_found(&self, zfs: &Zfs, name: &str, force: bool) -> Result<(), StoreError> {
        let action = format!("unmount `{name}`");
        let nowhere = ["set", "mountpoint=none", name];
        let is_moved = self.moved().contains(name);
        let words: &[&str] = if is_moved { &nowhere } else { &["unmount", name] };
        // Somebody else may have done it.
        let worth = || table::is_mounted(zfs, name).unwrap_or(true);
        let plain = zfs.act_patiently(&action, words, worth);
        let done = plain.or_else(|error| match force && worth() {
            true => {
                zfs.act(&action, &["unmount", "-f", name])?;
                if is_moved { zfs.act(&action, &nowhere) } else { Ok(()) }
            }
            false => Err(error),
        });
        done.or_else(|error| if worth() { Err(error) } else { Ok(()) })?;
        self.moved().remove(name);
        self.table.note(name, false, None);
        Ok(())
    }
}

impl Mounter for ByCommand {
    fn mount(&self, zfs: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError> {
        let Some(found) = self.table.find_one(zfs, dataset)? else { return Ok(false) };
        self.mount_found(zfs, &found, at, &[]).map(|()| true)
    }

    /// One look tells all there is to know.
    fn show(&self, zfs: &Zfs, dataset: &str, at: &Path) -> Result<bool, StoreError> {
        // By their names, and with the pool's: that it is there proves in the same table that the others are not.
        let own = [dataset.to_owned(), format!("{dataset}@{SNAPSHOT}")];
        let below = CHILDREN.map(|(child, _)| format!("{dataset}/{child}"));
        let names: Vec<_> = own.iter().chain(&below).map(String::as_str).collect();
        let wanted = ["-t", "filesystem,snapshot", "-o", table::COLUMNS];
        let rows = zfs.table(&wanted, &[&[zfs.pool()], &names[..]].concat())?;
        let is_there = |name: &str| rows.iter().find(|row| row[0] == name);
        if is_there(&format!("{dataset}@{SNAPSHOT}")).is_none() {
            return Ok(false);
        }
        let Some(own) = is_there(dataset).map(|row| table::read(row)) else { return Ok(false) };
        // A killed process may have mounted, or unmounted, a part of it.
        self.mount_found(zfs, &own, at, READ_ONLY)?;
        let shown = at;
        for (child, place) in CHILDREN {
            let (name, at) = (format!("{dataset}/{child}"), shown.join(place));
            // Where there is no place for it, none was ever shown.
            if let Some(row) = is_there(&name).filter(|_| is_place(shown, place)) {
                self.mount_found(zfs, &table::read(row), &at, READ_ONLY)?;
            }
        }
        Ok(true)
    }

    fn unmount(
        &self,
        zfs: &Zfs,
        dataset: &str,
        _: &Path,
        _: bool,
        force: bool,
    ) -> Result<(), StoreError> {
        let mut mounted = self.table.find(zfs, dataset)?;
        mounted.retain(|found| found.mounted);
        // What is mounted in another goes first.
        mounted.sort_by_key(|found| Reverse(found.mountpoint.as_os_str().len()));
        mounted.iter().try_for_each(|found| self.unmount_found(zfs, &found.name, force))
    }

    fn born(&self, dataset: &str, at: &Path) {
        self.table.born(dataset, at);
    }

    fn parted(&self, dataset: &str) {
        self.table.parted(dataset);
    }

    fn carry(&self, zfs: &Zfs, place: &Place, openings: &Arc<Openings>) -> Carry {
        Carry::new(SetMountpoint::new(zfs, place, self.table.clone(), openings.clone()))
    }

    fn wants_tree_apart(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "mounts by `zfs mount`"
    }
}
