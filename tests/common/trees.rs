//! What trees hold, as text, so that two of them can be compared.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::names;
use super::pool::Pool;

/// Every entry below `dir`: its path, and kind, mode, size and contents. Owners and times are left out.
pub fn contents(dir: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    collect(dir, dir, &mut all);
    all
}

fn collect(top: &Path, dir: &Path, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let held = match meta.file_type() {
            kind if kind.is_dir() => Vec::new(),
            kind if kind.is_symlink() => {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            }
            _ => fs::read(&path).unwrap(),
        };
        let name = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
        let held = held.escape_ascii();
        all.insert(name, format!("{:o} {held}", meta.mode()));
        if meta.is_dir() {
            collect(top, &path, all);
        }
    }
}

/// What every result of a store holds: its tree and its log.
pub fn results(store: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut add = |id: String, tree: &Path, dir: &Path| {
        let mut all = contents(tree);
        all.insert("/log".to_owned(), fs::read_to_string(dir.join("log")).unwrap());
        found.insert(id, all);
    };
    match Pool::of(store) {
        Some(pool) => pool.results(add),
        None => names(&store.join("result")).into_iter().for_each(|id| {
            let dir = store.join("result").join(&id);
            add(id, &dir.join("rootfs"), &dir);
        }),
    }
    found
}

/// Inodes of all files below `dir`, which need not be there.
pub fn inodes(dir: &Path) -> HashSet<u64> {
    let mut all = HashSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(inodes(&entry.path())),
            false => drop(all.insert(entry.metadata().unwrap().ino())),
        }
    }
    all
}
