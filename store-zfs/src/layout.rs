//! What lies where in a pool.

use std::fs::{self, DirBuilder, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bstr::BStr;
use obuilder_core::ResultId;
use obuilder_core::cache::reserve;
use obuilder_core::error::StoreError;

use crate::command::{Rows, Zfs, ZfsFailed};
use crate::known::Known;
use crate::lock::Locked;
use crate::mount::Mounter;
use crate::names;
use crate::openings::Openings;
use crate::sweep::entries;

/// The newest format of [`Pool`] this program knows.
const FORMAT: u32 = 1;

/// Longest wait for room that was given back, and how soon to look again.
const ROOM: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// The snapshot that makes a dataset a result, a kept tree, a cache's version or a base image.
pub(crate) const SNAPSHOT: &str = "snap";

/// The datasets that everything else lies in.
const GROUPS: [&str; 7] =
    ["state", "result", "cache", "cache-tmp", "result-tmp", "failed", "trash"];

/// Those that are looked at as a whole: all but `state`, in the order in which ZFS lists them.
pub(crate) const KEPT_IN: [&str; 6] =
    ["cache", "cache-tmp", "failed", "result", "result-tmp", "trash"];

/// So many of them, the first, are OBuilder's own.
const OF_OBUILDER: usize = 4;

/// A pool (or a dataset that stands for one), and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name, such as `tank`.
    pub pool: String,
    /// Its mount point, such as `/tank` or `/Volumes/tank`.
    pub root: PathBuf,
}

/// Kinds of what a store keeps for an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A finished result.
    Result,
    /// A kept tree of a failed step.
    Failed,
}

impl Kind {
    /// The dataset that holds them.
    pub(crate) fn group(self) -> &'static str {
        match self {
            Kind::Result => "result",
            Kind::Failed => "failed",
        }
    }
}

/// The pool of a store.
///
/// ```text
/// POOL/state              the index; obuild-format holds the number of this layout; obuild-zfs/ the locks:
///                           alive/PID-RANDOM  held while a store is open, by which sweepers tell what a killed process left
///                           pins/KIND-ID      locked shared while pinned, exclusively while deleted; mounts, caches, images
///                           changes           what a result was last taken from its place by
///                           making/ID         held while ID is made in its place, with the name in result-tmp of what is made
///                           places/N          held while what has no snapshot yet is finished or taken away; one for many ids
///                           kept/ID           there if there may be a kept tree
///                           made/ID-UNIQUE    the log of a result being made, whose tree is mounted in there as rootfs; on a Mac alone
/// POOL/result/ID@snap     finished results: rootfs/, log, env. Without the snapshot: being made, or left by a kill
///     …/home, …/brew        where the tree is a dataset of its own: shown at rootfs and at rootfs/local
/// POOL/result-tmp/ID-UNIQUE results being made on nothing, in a place that is taken, or on a Mac; the others are mounted there
/// POOL/failed/ID@snap     kept trees of failed steps
/// POOL/cache/c-NAME@snap  newest versions of caches
/// POOL/cache-tmp/UNIQUE   leased copies
/// POOL/trash/UNIQUE       deleted; there until nothing is a clone of it any more
/// POOL/base-image/NAME@snap base images, which others put there or [`crate::ZfsFetcher::put`]
/// ```
///
/// UNIQUE is PID-RANDOM-N. OBuilder's own but for `result-tmp`, `failed` and `trash`, which it leaves alone. Nothing in the groups
/// but `state` stays mounted: every mount point is a directory of the same name in the group's own dataset.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) zfs: Zfs,
    pub(crate) mounter: Box<dyn Mounter>,
    place: Place,
    opening: String,
    pub(crate) openings: Arc<Openings>,
    next: AtomicU64,
    pub(crate) known: Known,
}

impl Pool {
    /// Opens the store in the pool, or makes an empty one.
    pub(crate) fn open(
        zfs: Zfs,
        mounter: Box<dyn Mounter>,
        place: Place,
        make_room: bool,
    ) -> Result<(Self, Locked), StoreError> {
        let opening = format!("{}-{:08x}", std::process::id(), random());
        let known = Known::new(locks_in(&place.root).join("changes"));
        let openings = Arc::new(Openings::new(locks_in(&place.root).join("alive")));
        let next = AtomicU64::default();
        let pool = Self { zfs, mounter, place, opening, openings, next, known };
        pool.make_groups()?;
        for name in ["", "alive", "pins", "making", "places", "kept", "made"] {
            private_dir(&pool.locks().join(name))?;
        }
        pool.known.begin(pool.unique());
        let path = pool.openings.lock(&pool.opening);
        let alive = match Locked::shared(&path) {
            Err(error) if make_room && is_full(&error) => pool.lock_in_kept_room(&path),
            alive => alive,
        };
        let alive = alive.map_err(|e| failed("lock", &path, e))?;
        Ok((pool, alive.for_all_threads()))
    }

    /// In a full pool not even a lock can be made. What is given back can be had when ZFS has written that.
    fn lock_in_kept_room(&self, path: &Path) -> io::Result<Locked> {
        reserve::release(&self.state());
        let end = Instant::now() + ROOM;
        loop {
            match Locked::shared(path) {
                Err(error) if is_full(&error) && Instant::now() < end => std::thread::sleep(LOOK),
                locked => return locked,
            }
        }
    }

    /// One look at what is there, then whatever is missing.
    fn make_groups(&self) -> Result<(), StoreError> {
        let name = &self.place.pool;
        let groups = GROUPS.map(|group| format!("{name}/{group}"));
        let rows = self.look_at(&groups)?;
        let found = |dataset: &str| rows.iter().find(|row| row[0] == dataset);
        let pool = found(name);
        if let Some(row) = pool.filter(|row| Path::new(&row[2]) != self.place.root) {
            return Err(self.mounted_elsewhere(&row[2]));
        }
        self.make_mounted(name, pool)?;
        if let Some(state) = found(&groups[0]) {
            self.make_mounted(&groups[0], Some(state))?;
        }
        self.refuse_foreign(&groups, |dataset| found(dataset).is_some())?;
        for (group, dataset) in GROUPS.iter().zip(&groups) {
            self.make_mounted(dataset, found(dataset))?;
            private_dir(&self.place.root.join(group))?;
            // It comes before the other groups, so that those that are there without it are not ours.
            if *group == "state" {
                self.check_format()?;
            }
        }
        Ok(())
    }

    /// Which of the groups are there, and the pool: name, whether it is mounted, mount point.
    fn look_at(&self, groups: &[String]) -> Result<Vec<Vec<String>>, StoreError> {
        let name = self.place.pool.as_str();
        let names: Vec<_> = [name].into_iter().chain(groups.iter().map(String::as_str)).collect();
        let rows = self.zfs.table(&["-t", "filesystem", "-o", "name,mounted,mountpoint"], &names);
        if !rows.as_ref().is_ok_and(|rows| rows.iter().any(|row| row[0] == name)) {
            // Asked for alone, it says what is wrong with it.
            let asked = self.zfs.run(&["list", "-Hp", "-o", "name", name]);
            asked.map_err(|failed| self.no_pool(failed))?;
        }
        rows
    }

    /// Refuses a pool in which neither we nor OBuilder have made what has our groups' names.
    fn refuse_foreign(
        &self,
        groups: &[String],
        is_there: impl Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        if self.format_file().exists() {
            return Ok(());
        }
        let (theirs, ours) = groups.split_at(OF_OBUILDER);
        // Killed while it began, it has removed one group and not made it again; its index stays.
        let of_obuilder = self.state().join("db/db.sqlite").exists()
            || theirs.iter().all(|dataset| is_there(dataset));
        // Whoever was killed at the very first has made `state` alone.
        let strange = if of_obuilder { ours } else { &groups[1..] };
        match strange.iter().find(|dataset| is_there(dataset)) {
            Some(found) => {
                Err(StoreError::Foreign { location: self.location(), found: found.clone() })
            }
            None if of_obuilder => Ok(()),
            None => self.refuse_full_state(&groups[0], is_there(&groups[0])),
        }
    }

    fn refuse_full_state(&self, state: &str, is_there: bool) -> Result<(), StoreError> {
        if !is_there {
            return Ok(());
        }
        let names = entries(&self.state())?;
        match names.iter().find(|name| !name.starts_with("obuild-")) {
            Some(name) => {
                let found = format!("{state} with `{name}` in it");
                Err(StoreError::Foreign { location: self.location(), found })
            }
            None => Ok(()),
        }
    }

    /// Makes a group that is not of the store's own, unless it is there.
    pub(crate) fn make_group(&self, group: &str) -> Result<(), StoreError> {
        let dataset = self.dataset(group);
        let rows = self.zfs.table(&["-o", "name,mounted"], &[&dataset])?;
        // Its members are mounted without it.
        if rows.is_empty() { self.make_mounted(&dataset, None) } else { Ok(()) }
    }

    fn make_mounted(&self, dataset: &str, found: Option<&Vec<String>>) -> Result<(), StoreError> {
        match found {
            Some(row) if row[1] == "yes" => Ok(()),
            Some(_) => {
                let mounted = self.zfs.act(&format!("mount `{dataset}`"), &["mount", dataset]);
                // Another process may have been faster.
                mounted.or_else(|error| self.is_mounted(dataset)?.then_some(()).ok_or(error))
            }
            None => {
                let made = self.zfs.act(&format!("create `{dataset}`"), &["create", dataset]);
                made.or_else(|error| self.is_mounted(dataset)?.then_some(()).ok_or(error))
            }
        }
    }

    fn is_mounted(&self, dataset: &str) -> Result<bool, StoreError> {
        let rows = self.zfs.table(&["-o", "mounted"], &[dataset])?;
        Ok(rows.first().is_some_and(|row| row[0] == "yes"))
    }

    /// That `zfs` knows nothing of the pool; that there is no `zfs` it says itself.
    fn no_pool(&self, failed: ZfsFailed) -> StoreError {
        let name = &self.place.pool;
        let remedy = match name.split_once('/') {
            // It could not be run.
            _ if failed.stderr.is_empty() => failed.remedy,
            Some((first, _)) => {
                format!(
                    "`zfs create {name}` makes it, if `zpool import` has brought the pool `{first}`"
                )
            }
            None => format!(
                "`zpool import` lists pools that can be had; `zpool create {name} DISK` makes one"
            ),
        };
        let action = format!("open the store in `{name}`");
        StoreError::Failed { action, source: ZfsFailed { remedy, ..failed }.into() }
    }

    fn mounted_elsewhere(&self, mountpoint: &str) -> StoreError {
        let (name, root) = (&self.place.pool, self.place.root.display());
        let there = Path::new(mountpoint);
        // A name of a store leads to the pool of its path's last component alone.
        let named =
            there.is_absolute() && there.file_name().is_some_and(|last| last == name.as_str());
        let rename =
            if named { format!("name the store `zfs:{mountpoint}`, or ") } else { String::new() };
        let what = format!(
            "its mount point is `{mountpoint}` and not `{root}`: {rename}`zfs set mountpoint={root} {name}`"
        );
        StoreError::Failed { action: format!("open the store in `{name}`"), source: what.into() }
    }

    fn format_file(&self) -> PathBuf {
        self.state().join("obuild-format")
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let path = self.format_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let new = self.state().join(format!("obuild-format-{}", self.unique()));
                return fs::write(&new, format!("{FORMAT}\n"))
                    .and_then(|()| fs::rename(&new, &path))
                    .map_err(|e| failed("write", &path, e));
            }
            Err(error) => return Err(failed("read", &path, error)),
        };
        let found = text.trim().parse::<u32>().map_err(|e| StoreError::Failed {
            action: format!("read the store's format from `{}`", path.display()),
            source: e.into(),
        })?;
        if found > FORMAT {
            return Err(StoreError::Newer { location: self.location(), found, known: FORMAT });
        }
        Ok(())
    }

    /// As a user names the store.
    pub(crate) fn location(&self) -> String {
        let Place { pool, root } = &self.place;
        if *root == Path::new("/").join(pool) {
            return format!("zfs:{pool}");
        }
        format!("zfs:{}", root.display())
    }

    /// The pool's name.
    pub(crate) fn name(&self) -> &str {
        &self.place.pool
    }

    /// The dataset at `path` below the pool.
    pub(crate) fn dataset(&self, path: &str) -> String {
        format!("{}/{path}", self.place.pool)
    }

    /// A table of everything in the groups; what else is in the pool may be much, and is not ours.
    pub(crate) fn look_at_groups(&self, columns: &str) -> Result<Rows, StoreError> {
        let wanted = ["-r", "-t", "filesystem,snapshot", "-o", columns];
        let groups = KEPT_IN.map(|group| self.dataset(group));
        self.zfs.table(&wanted, &groups.each_ref().map(String::as_str))
    }

    /// Where the dataset at `path` below the pool is mounted.
    pub(crate) fn dir(&self, path: &str) -> PathBuf {
        self.place.root.join(path)
    }

    /// `path` below the pool of what is kept for `id`.
    pub(crate) fn of(kind: Kind, id: &ResultId) -> String {
        format!("{}/{id}", kind.group())
    }

    /// `path` below the pool of the newest version of the cache `name`.
    pub(crate) fn cache(name: &BStr) -> String {
        format!("cache/{}", names::encode(name))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.place.root.join("state")
    }

    /// The directory of the locks.
    pub(crate) fn locks(&self) -> PathBuf {
        locks_in(&self.place.root)
    }

    /// The lock of what is kept for `id`.
    pub(crate) fn pin(&self, kind: Kind, id: &ResultId) -> PathBuf {
        self.locks().join("pins").join(format!("{}-{id}", kind.group()))
    }

    /// The lock of whoever makes `id` in its place.
    pub(crate) fn claim(&self, id: &ResultId) -> PathBuf {
        self.locks().join("making").join(id.as_str())
    }

    /// The lock of the place of `id`, held for moments. It is that of other ids too and stays, so that none has to be made in a full
    /// pool.
    pub(crate) fn place(&self, id: &ResultId) -> PathBuf {
        self.locks().join("places").join(&id.as_str()[..2])
    }

    /// Is there if there may be a kept tree of `id`, so that a step that succeeds need not ask.
    pub(crate) fn kept(&self, id: &ResultId) -> PathBuf {
        self.locks().join("kept").join(id.as_str())
    }

    /// Where the tree at `path` below the pool is worked in, if it is a dataset of its own.
    pub(crate) fn made(&self, path: &str) -> PathBuf {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.locks().join("made").join(name)
    }

    /// A name that no other call has had, and hardly one of another process.
    pub(crate) fn unique(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.opening)
    }

    /// Whether `opening` is this one.
    pub(crate) fn is_own(&self, opening: &str) -> bool {
        self.opening == opening
    }

    /// Whether the maker of `name` in `group` has gone. What has no name of ours, or of OBuilder's leases, is for others to remove.
    pub(crate) fn is_dead(&self, group: &str, name: &str) -> Result<bool, StoreError> {
        match names::maker(name) {
            Some(opening) => self.openings.has_gone(opening),
            None => Ok(is_lease(group, name)),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether what is named `name` in `group` can be ours or OBuilder's at all.
pub(crate) fn is_ours(group: &str, name: &str) -> bool {
    names::maker(name).is_some() || is_lease(group, name)
}

/// OBuilder's leases last as long as its process, which is not to run now.
fn is_lease(group: &str, name: &str) -> bool {
    group == "cache-tmp" && names::is_lease_of_obuilder(name)
}

fn locks_in(root: &Path) -> PathBuf {
    root.join("state/obuild-zfs")
}

/// A number to make names unique; nobody relies on it not being guessed.
fn random() -> u32 {
    // Every state is seeded by the operating system.
    (RandomState::new().hash_one(()) >> 32) as u32
}

/// The error of failing to `action` the file or directory at `path`.
pub(crate) fn failed(action: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::io(format!("{action} `{}`", path.display()), source)
}

/// Makes a directory that nobody else may enter, or closes the one that is there.
pub(crate) fn private_dir(path: &Path) -> Result<(), StoreError> {
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::metadata(path).and_then(|found| match found.permissions().mode() & 0o077 {
                0 => Ok(()),
                _ => fs::set_permissions(path, Permissions::from_mode(0o700)),
            })
        }
        made => made,
    };
    made.map_err(|e| failed("make", path, e))
}
