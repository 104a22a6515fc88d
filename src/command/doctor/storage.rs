//! Where results are kept, and how.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::statvfs;

use super::check::Check;
use super::host;
use super::subject::{Subject, existing};
use crate::settings::Key;
use crate::{session, units};

/// Below this much free space a build is likely to fail.
const LOW_SPACE: u64 = 2 << 30;
/// Below this many free inodes likewise.
const LOW_INODES: u64 = 20_000;

/// The checks on the store and its volume.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    let mut checks = vec![store(subject)];
    match subject.is_pool() {
        true => checks.push(Check::ok("copy-on-write", "ZFS clones whole trees")),
        false => {
            checks.push(one_volume(subject));
            checks.push(copy_on_write(subject.on_volume()));
        }
    }
    checks.extend(space(subject.on_volume()));
    checks
}

fn store(subject: &Subject<'_>) -> Check {
    const NAME: &str = "store";
    let path = &subject.store;
    if path.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        let text = format!("`{}` is no directory", path.display());
        return Check::broken(NAME, text, "choose another --store");
    }
    let (_, source) = subject.settings.of(Key::Store);
    if subject.is_pool() && !path.exists() {
        let text = format!("no pool is mounted at `{}` ({source})", path.display());
        return Check::broken(NAME, text, "`zpool import` lists pools, `zpool create` makes one");
    }
    if !path.exists() || (subject.is_pool() && !path.join("state").exists()) {
        let text = format!("`{}` ({source}) is made by the first build", path.display());
        return Check::ok(NAME, text);
    }
    match session::describe_store(subject.settings) {
        Ok(text) if subject.is_pool() && !subject.root => Check::weak(
            NAME,
            format!("{text} ({source}); what may be mounted without root differs by system"),
            "run obuild as root; on a Mac `zfs allow` will do, see docs/zfs.md",
        ),
        Ok(text) => Check::ok(NAME, format!("{text} ({source})")),
        Err(error) => {
            let (finding, hint) = error.brief();
            Check::broken(NAME, finding, hint.unwrap_or("choose another --store"))
        }
    }
}

/// A tree takes the home's place by a rename, which never leaves a volume; where a filesystem shows it there, one beside that.
fn one_volume(subject: &Subject<'_>) -> Check {
    const NAME: &str = "one volume";
    let home = &subject.home;
    let shown = subject.settings.fuse().and_then(|mount| Some(mount.parent()?.to_owned()));
    let device = |path: &Path| existing(path).metadata().map(|metadata| metadata.dev());
    match (device(&subject.store), device(shown.as_ref().unwrap_or(home))) {
        (Ok(a), Ok(b)) if a == b => {
            Check::ok(NAME, format!("store and home `{}` are on one volume", home.display()))
        }
        (Ok(_), Ok(_)) => Check::broken(
            NAME,
            format!("the home `{}` is on another volume than the store", home.display()),
            "choose a --home on the store's volume",
        ),
        (Err(error), _) | (_, Err(error)) => {
            Check::unknown(NAME, error, "look at the paths of store and home")
        }
    }
}

/// Really shares the blocks of one small file with another.
fn copy_on_write(dir: &Path) -> Check {
    const NAME: &str = "copy-on-write";
    let remedy = "results are copied in full, or shared by hard links with --rsync-mode=hardlink; \
                  a store on APFS, XFS or btrfs shares what is the same";
    match host::can_clone(dir) {
        Ok(true) => Check::ok(NAME, "the store's volume shares the blocks of copied files"),
        Ok(false) => Check::weak(
            NAME,
            "the store's volume does not share the blocks of copied files",
            remedy,
        ),
        Err(error) => Check::unknown(NAME, error, "run obuild as a user who may write there"),
    }
}

fn space(dir: &Path) -> [Check; 2] {
    let usage = match statvfs(dir) {
        Ok(usage) => usage,
        Err(error) => {
            return ["free space", "free inodes"]
                .map(|name| Check::unknown(name, error, "look at the store's path"));
        }
    };
    let free = usage.f_bavail * usage.f_frsize;
    let text = format!("{} free on the store's volume", units::size(free));
    let remedy = "make room: `obuild gc --min-free SIZE`";
    let bytes = match free {
        LOW_SPACE.. => Check::ok("free space", text),
        _ => Check::weak("free space", text, remedy),
    };
    // Filesystems that make inodes as they go say 0 of 0.
    let (all, left) = (usage.f_files, usage.f_favail);
    let inodes = match (all, left) {
        (0, _) => Check::ok("free inodes", "the filesystem has no limit"),
        (_, LOW_INODES..) => Check::ok("free inodes", format!("{left} free")),
        _ => Check::weak("free inodes", format!("only {left} free"), remedy),
    };
    [bytes, inodes]
}
