//! Random changes to a tree, of the kinds that builds make, and of those that try not to be seen.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::Random;

/// Makes `count` random changes below `root`: files made, rewritten, overwritten in place with their time set back, replaced,
/// linked, renamed, removed; directories made, moved, removed; modes, owners, times and attributes changed.
///
/// What a change finds impossible is left out.
pub fn mutate(root: &Path, count: usize, random: &mut Random) -> io::Result<()> {
    for _ in 0..count {
        let all = all_below(root)?;
        let kind = random.below(16);
        let done = change(root, &all, kind, random);
        match done {
            Err(error) if !is_harmless(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_harmless(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        PermissionDenied
            | AlreadyExists
            | NotFound
            | IsADirectory
            | NotADirectory
            | InvalidInput
            | DirectoryNotEmpty
            | Unsupported
    )
}

#[derive(Default)]
struct All {
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

fn all_below(root: &Path) -> io::Result<All> {
    let mut all = All { dirs: vec![root.to_owned()], ..All::default() };
    let mut at = 0;
    while at < all.dirs.len() {
        let mut names = fs::read_dir(&all.dirs[at])?.collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in names {
            let kind = entry.file_type()?;
            let list = match () {
                () if kind.is_dir() => &mut all.dirs,
                () if kind.is_file() => &mut all.files,
                () => &mut all.others,
            };
            list.push(entry.path());
        }
        at += 1;
    }
    Ok(all)
}

fn change(root: &Path, all: &All, kind: u64, random: &mut Random) -> io::Result<()> {
    let new = random.pick(&all.dirs).join(name(random));
    let any: Vec<&PathBuf> = all.files.iter().chain(&all.others).chain(&all.dirs[1..]).collect();
    if any.is_empty() || all.files.is_empty() || kind == 0 {
        let size = *random.pick(&[0, 1, 4096, 20_000]);
        return fs::write(new, random.bytes(size));
    }
    let (file, victim) = (random.pick(&all.files).clone(), random.pick(&any).to_path_buf());
    match kind {
        1 | 2 => overwrite_unseen(&file, random),
        3 => fs::write(&file, random.bytes(100)),
        4 => replace(&file, &new, random),
        5 => fs::hard_link(&file, new),
        6 => fs::rename(&file, new),
        7 => fs::rename(random.pick(&all.dirs), new),
        // A default access list of its parent could keep its owner out of it.
        8 => fs::create_dir(&new)
            .and_then(|()| fs::set_permissions(new, Permissions::from_mode(0o755))),
        9 => symlink(file.file_name().unwrap_or_default(), new),
        10 => remove(&victim, root),
        11 => swap(&file, random.pick::<PathBuf>(&all.files), &new),
        12 => {
            fs::set_permissions(&file, Permissions::from_mode(*random.pick(&[0o644, 0o755, 0o600])))
        }
        13 => set_back(&victim),
        14 => own(&victim, random),
        _ => touch(&file),
    }
}

fn name(random: &mut Random) -> OsString {
    format!("m{}", random.below(40)).into()
}

/// Other bytes, the same size, and the old modification time: only the ctime tells.
fn overwrite_unseen(path: &Path, random: &mut Random) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    let file = OpenOptions::new().write(true).open(path)?;
    if meta.len() > 0 {
        file.write_all_at(&random.bytes(1), random.below(meta.len()))?;
    }
    file.set_modified(meta.modified()?)
}

/// A new file of the same size, time and mode in the place of the old one, as `cp -p` and `tar` do it.
fn replace(path: &Path, by_way_of: &Path, random: &mut Random) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if by_way_of.exists() || meta.len() > 1 << 20 {
        return Ok(());
    }
    fs::write(by_way_of, random.bytes(meta.len() as usize))?;
    File::open(by_way_of)?.set_modified(meta.modified()?)?;
    fs::set_permissions(by_way_of, meta.permissions())?;
    fs::rename(by_way_of, path)
}

fn remove(victim: &Path, root: &Path) -> io::Result<()> {
    let dir = fs::symlink_metadata(victim)?.is_dir();
    match (dir, victim == root) {
        (true, false) => fs::remove_dir_all(victim),
        (true, true) => Ok(()),
        _ => fs::remove_file(victim),
    }
}

fn swap(a: &Path, b: &Path, by_way_of: &Path) -> io::Result<()> {
    if fs::symlink_metadata(by_way_of).is_ok() {
        return Ok(());
    }
    fs::rename(a, by_way_of)?;
    let _ = fs::rename(b, a);
    fs::rename(by_way_of, b)
}

fn set_back(path: &Path) -> io::Result<()> {
    let time = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn own(path: &Path, random: &mut Random) -> io::Result<()> {
    let value = random.bytes(3);
    let flags = rustix::fs::XattrFlags::empty();
    let _ = rustix::fs::lsetxattr(path, "user.changed", &value, flags);
    std::os::unix::fs::lchown(path, Some(random.below(3) as u32 + 1000), None)
}

/// Nothing changes but the ctime.
fn touch(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
