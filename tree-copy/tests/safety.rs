//! What the operations refuse, leave alone and report.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tree_copy::{
    Error, How, Options, Owners, Trust, chown_tree, copy_tree, digest_tree, remove_tree,
    share_identical, stamp_tree, tree_size,
};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn removing_never_follows_links() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("outside/file"), "kept");
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    symlink("../outside", tree.join("link")).unwrap();
    remove_tree(&tree).unwrap();
    symlink("outside", dir.path().join("alias")).unwrap();
    remove_tree(&dir.path().join("alias")).unwrap();
    assert!(dir.path().join("outside/file").exists());
    assert!(!dir.path().join("alias").is_symlink());
    remove_tree(&dir.path().join("never was")).unwrap();
}

#[test]
fn removing_opens_locked_directories() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for mode in [0o000, 0o100, 0o200, 0o400, 0o500] {
        let sub = tree.join(format!("{mode:o}"));
        write(&sub.join("deeper/file"), "x");
        fs::set_permissions(sub.join("deeper"), Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(sub, Permissions::from_mode(mode)).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn what_will_not_go_is_named_and_the_rest_goes() {
    if !is_root() {
        eprintln!("SKIP: only root can make a file that will not go");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    write(&tree.join("a/stuck"), "x");
    write(&tree.join("b/goes"), "x");
    let stuck = fs::File::open(tree.join("a/stuck")).unwrap();
    let Ok(flags) = rustix::fs::ioctl_getflags(&stuck) else {
        eprintln!("SKIP: the filesystem of the temporary directory has no file flags");
        return;
    };
    rustix::fs::ioctl_setflags(&stuck, flags | rustix::fs::IFlags::IMMUTABLE).unwrap();
    let error = remove_tree(&tree).unwrap_err();
    rustix::fs::ioctl_setflags(&stuck, flags).unwrap();
    assert_eq!(error.named, [tree.join("a/stuck")]);
    assert_eq!(error.count, 1);
    assert!(!tree.join("b").exists());
    remove_tree(&tree).unwrap();
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a/file"), "x");
    let (a, b) = (dir.path().join("a"), dir.path().join("a/b"));
    assert!(matches!(copy_tree(&a, &b, &Options::default()), Err(Error::IntoItself(_))));
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a/file"), "new");
    write(&dir.path().join("b/file"), "old");
    let error = copy_tree(&dir.path().join("a"), &dir.path().join("b"), &Options::default());
    let message = error.unwrap_err().to_string();
    assert_eq!(message, format!("failed to create `{}`", dir.path().join("b/file").display()));
    assert_eq!(fs::read_to_string(dir.path().join("b/file")).unwrap(), "old");
}

#[test]
fn a_link_in_place_of_the_destination_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a/file"), "x");
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("b")).unwrap();
    copy_tree(&dir.path().join("a"), &dir.path().join("b"), &Options::default()).unwrap_err();
    assert_eq!(fs::read_dir(dir.path().join("real")).unwrap().count(), 0);
}

#[test]
fn sockets_are_left_out_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    let _socket = UnixListener::bind(dir.path().join("a/socket")).unwrap();
    let copied = copy_tree(&dir.path().join("a"), &dir.path().join("b"), &Options::default());
    assert_eq!(copied.unwrap().skipped, [dir.path().join("a/socket")]);
    assert_eq!(fs::read_dir(dir.path().join("b")).unwrap().count(), 0);
}

#[test]
fn a_cancelled_copy_stops() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..50 {
        write(&dir.path().join(format!("a/{number}")), "x");
    }
    let asked = AtomicUsize::new(0);
    let cancel = || asked.fetch_add(1, Ordering::Relaxed) > 10;
    let options = Options { cancel: Some(&cancel), ..Options::default() };
    let done = copy_tree(&dir.path().join("a"), &dir.path().join("b"), &options);
    assert!(matches!(done, Err(Error::Cancelled)));
    assert!(fs::read_dir(dir.path().join("b")).unwrap().count() < 50);
}

#[test]
fn a_filesystem_without_clones_is_an_error_only_when_clones_are_demanded() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Path::new("/dev/shm");
    let Ok(other) = tempfile::tempdir_in(shared) else {
        eprintln!("SKIP: there is no second filesystem at /dev/shm");
        return;
    };
    write(&dir.path().join("a/file"), "x");
    let from = dir.path().join("a");
    let how = |how| Options { how, ..Options::default() };
    assert!(copy_tree(&from, &other.path().join("b"), &how(How::Reflink)).is_err());
    let copied = copy_tree(&from, &other.path().join("c"), &how(How::TryReflink)).unwrap();
    assert_eq!((copied.bytes, copied.cloned), (1, 0));
}

#[test]
fn owners_change_only_where_they_differ() {
    if !is_root() {
        eprintln!("SKIP: only root can give files away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    write(&tree.join("a/b"), "x");
    symlink("/etc/passwd", tree.join("link")).unwrap();
    assert_eq!(chown_tree(&tree, 54_321, 54_322).unwrap(), 4);
    assert_eq!(chown_tree(&tree, 54_321, 54_322).unwrap(), 0);
    let link = fs::symlink_metadata(tree.join("link")).unwrap();
    assert_eq!((link.uid(), link.gid()), (54_321, 54_322));
    assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), 0);
    let caller = Options { owners: Owners::Caller, ..Options::default() };
    fs::set_permissions(tree.join("a/b"), Permissions::from_mode(0o6755)).unwrap();
    copy_tree(&tree, &dir.path().join("copy"), &caller).unwrap();
    let copy = fs::metadata(dir.path().join("copy/a/b")).unwrap();
    assert_eq!((copy.uid(), copy.mode() & 0o7777), (0, 0o755), "setuid of another is not mine");
}

#[test]
fn stamps_and_digests_tell_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    write(&tree.join("a/b"), "one");
    let both = || (stamp_tree(&tree, None).unwrap(), digest_tree(&tree, None).unwrap());
    let first = both();
    assert_eq!(both(), first);
    fs::write(tree.join("a/b"), "two").unwrap();
    let second = both();
    assert!(second.0 != first.0 && second.1 != first.1);
    fs::write(tree.join("a/b"), "one").unwrap();
    let third = both();
    assert!(third.0 != second.0 && third.1 == first.1, "the same contents have the same digest");
    fs::set_permissions(tree.join("a/b"), Permissions::from_mode(0o755)).unwrap();
    assert_ne!(both().1, third.1);
}

#[test]
fn size_counts_an_inode_once() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    write(&tree.join("a"), &"x".repeat(100_000));
    let once = tree_size(&tree).unwrap();
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    assert_eq!(tree_size(&tree).unwrap(), once);
    fs::hard_link(tree.join("a"), dir.path().join("elsewhere")).unwrap();
    let now = tree_size(&tree).unwrap();
    assert_eq!(now.allocated, once.allocated);
    assert!(now.freed + 100_000 <= once.freed, "removing the tree would not free the file");
}

/// Which names of `tree` are the same inode as in `base`.
fn shared(tree: &Path, base: &Path, names: &[&str]) -> Vec<bool> {
    let inode = |path: std::path::PathBuf| fs::symlink_metadata(path).unwrap().ino();
    names.iter().map(|name| inode(tree.join(name)) == inode(base.join(name))).collect()
}

#[test]
fn only_files_that_are_the_same_are_shared() {
    let dir = tempfile::tempdir().unwrap();
    let (base, tree) = (dir.path().join("base"), dir.path().join("tree"));
    for name in ["same", "mode", "sly", "time", "sub/same"] {
        write(&base.join(name), "contents");
    }
    fs::hard_link(base.join("same"), dir.path().join("elsewhere")).unwrap();
    copy_tree(&base, &tree, &Options::default()).unwrap();
    fs::set_permissions(tree.join("mode"), Permissions::from_mode(0o700)).unwrap();
    let time = fs::metadata(tree.join("sly")).unwrap().modified().unwrap();
    fs::write(tree.join("sly"), "CONTENTS").unwrap();
    fs::File::open(tree.join("sly")).unwrap().set_modified(time).unwrap();
    fs::write(tree.join("time"), "contents").unwrap();
    let (before, stamp) = (digest_tree(&tree, None).unwrap(), fs::metadata(&tree).unwrap());
    let report = share_identical(&tree, &base, Trust::Contents).unwrap();
    let names = ["same", "mode", "sly", "time", "sub/same"];
    assert_eq!(shared(&tree, &base, &names), [true, false, false, false, true]);
    assert_eq!(report.files, 2);
    assert_eq!(digest_tree(&tree, None).unwrap(), before);
    let after = fs::metadata(&tree).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (stamp.mtime(), stamp.mtime_nsec()));
    share_identical(&tree, &base, Trust::Times).unwrap();
    assert!(shared(&tree, &base, &["sly"])[0], "trusting times is trusting");
}

#[test]
fn sharing_neither_joins_nor_parts_hard_links() {
    let dir = tempfile::tempdir().unwrap();
    let (base, tree) = (dir.path().join("base"), dir.path().join("tree"));
    for pair in ["joined", "parted", "kept"] {
        write(&base.join(pair).join("1"), "contents");
        let (one, two) = (base.join(pair).join("1"), base.join(pair).join("2"));
        if pair == "joined" { fs::copy(&one, &two).map(drop) } else { fs::hard_link(&one, &two) }
            .unwrap();
        let time = fs::metadata(&one).unwrap().modified().unwrap();
        fs::File::open(&two).unwrap().set_modified(time).unwrap();
    }
    copy_tree(&base, &tree, &Options::default()).unwrap();
    let time = fs::metadata(base.join("joined/1")).unwrap().modified().unwrap();
    fs::remove_file(tree.join("joined/2")).unwrap();
    fs::hard_link(tree.join("joined/1"), tree.join("joined/2")).unwrap();
    fs::remove_file(tree.join("parted/2")).unwrap();
    fs::copy(tree.join("parted/1"), tree.join("parted/2")).unwrap();
    let parted = fs::metadata(base.join("parted/1")).unwrap().modified().unwrap();
    fs::File::open(tree.join("parted/2")).unwrap().set_modified(parted).unwrap();
    fs::File::open(tree.join("joined/2")).unwrap().set_modified(time).unwrap();
    share_identical(&tree, &base, Trust::Contents).unwrap();
    let inode = |name: &str| fs::metadata(tree.join(name)).unwrap().ino();
    assert_eq!(inode("joined/1"), inode("joined/2"));
    assert_ne!(inode("parted/1"), inode("parted/2"));
    assert_eq!(inode("kept/1"), inode("kept/2"));
    assert_eq!(shared(&tree, &base, &["kept/1", "kept/2", "joined/1"]), [true, true, false]);
}
