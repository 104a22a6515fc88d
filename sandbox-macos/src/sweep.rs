//! What a build user leaves outside its home: objects of the kernel, and files where everybody may make them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use obuilder_core::step::Owner;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{platform, stuck, tree};

/// How deep directories are entered that are somebody else's and open to everybody, such as `/tmp/.X11-unix`.
const DEPTH: u32 = 2;

/// Removes what `owner` has outside `home`. No process of it may live. What cannot be removed is told to the developer's
/// log; the next step tries again.
pub(crate) fn after(owner: Owner, home: &Path) {
    if let Err(error) = platform::ipc::remove_of(owner.uid) {
        tracing::warn!(%error, uid = owner.uid, "a step has left IPC objects");
    }
    let swept = Sweep { uid: owner.uid, home };
    for dir in platform::temporary::dirs(owner) {
        swept.sweep(&dir, DEPTH);
    }
}

struct Sweep<'a> {
    uid: u32,
    /// It may stand in a directory that is swept, as what belongs to it stands beside it.
    home: &'a Path,
}

impl Sweep<'_> {
    /// Removes the user's entries from `dir`; a directory that is not there has none.
    fn sweep(&self, dir: &Path, depth: u32) {
        match self.find(dir, depth) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "failed to look for what a step has left")
            }
        }
    }

    fn find(&self, dir: &Path, depth: u32) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::open(dir, flags, Mode::empty())?;
        for entry in Dir::read_from(&open)? {
            let entry = entry?;
            let name = entry.file_name();
            // What has gone meanwhile was somebody else's.
            let Ok(found) = rustix::fs::statat(&open, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let path = dir.join(OsStr::from_bytes(name.to_bytes()));
            let is_dir = FileType::from_raw_mode(found.st_mode).is_dir();
            if matches!(name.to_bytes(), b"." | b"..") {
            } else if found.st_uid == self.uid {
                self.remove(&path, is_dir);
            } else if is_dir && is_open(&found) && depth > 0 {
                self.sweep(&path, depth - 1);
            }
        }
        Ok(())
    }

    /// Nobody else can have put something else at `path`: the directories that lead there are root's or the dead user's.
    fn remove(&self, path: &Path, is_dir: bool) {
        let beside = path.as_os_str().as_bytes().strip_prefix(self.home.as_os_str().as_bytes());
        if beside.is_some_and(|rest| rest.is_empty() || rest.starts_with(b".")) {
            return;
        }
        // First, or what is mounted there would be emptied.
        let unmounted = if is_dir { stuck::unmount_below(&[path.to_owned()]) } else { Ok(()) };
        match unmounted.and_then(|()| tree::remove(path)) {
            Ok(()) => tracing::debug!(path = %path.display(), "removed what a step has left"),
            Err(error) => tracing::warn!(error = error.with_sources(), "a step has left something"),
        }
    }
}

/// Whether this is root's and everybody may make files in it, but not remove those of others.
fn is_open(found: &Stat) -> bool {
    let open = Mode::from_raw_mode(found.st_mode).contains(Mode::WOTH | Mode::SVTX);
    found.st_uid == 0 && open
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests are here")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    /// Nobody has it.
    const UID: u32 = 60_980;

    #[test]
    fn only_what_is_the_users_goes() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIP: only root can make files of others");
        }
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path();
        let open = top.join("open");
        fs::create_dir_all(open.join("closed")).unwrap();
        for (dir, mode) in [(&open, 0o1777), (&open.join("closed"), 0o755)] {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(top.join("theirs/deep/er")).unwrap();
        fs::create_dir(top.join("home.tmp")).unwrap();
        symlink(top.join("open"), top.join("link")).unwrap();
        for file in
            ["file", "others", "open/file", "open/others", "open/closed/file", "theirs/deep/root"]
        {
            fs::write(top.join(file), "").unwrap();
        }
        for path in ["file", "open/file", "open/closed/file", "theirs", "link", "home.tmp"] {
            lchown(top.join(path), Some(UID), None).unwrap();
        }
        let swept = Sweep { uid: UID, home: &top.join("home") };
        swept.sweep(top, DEPTH);
        swept.sweep(&top.join("missing"), DEPTH);
        let left = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(left(top), ["home.tmp", "open", "others"]);
        assert_eq!(left(&open), ["closed", "others"]);
        assert_eq!(left(&open.join("closed")), ["file"], "nobody else could have made it there");
    }
}
