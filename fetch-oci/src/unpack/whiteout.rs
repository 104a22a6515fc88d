//! Hides what lower layers have: `.wh.NAME` one entry, `.wh..wh..opq` all of a directory.
//!
//! What the same layer has made stays, wherever in the layer it stands.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;
use rustix::io::Errno;

use super::Unpacker;
use super::entry::{Done, Failure};
use crate::tree::{self, Names};

/// What follows the first `.wh.` of the name of an opaque directory's mark.
const OPAQUE: &[u8] = b".wh..opq";

impl Unpacker<'_> {
    /// Applies the whiteout `.wh.HIDDEN`, which lies in `dir`, the present directory.
    pub(super) fn whiteout(&mut self, dir: &OwnedFd, hidden: &[u8]) -> Done {
        if self.made.is_none() {
            // There is no lower layer.
            return Ok(());
        }
        let place = self.at.place();
        if hidden == OPAQUE {
            return self.hide_all(dir, &place);
        }
        if hidden.starts_with(b".wh.") {
            // Marks that other programs keep for themselves.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Failure::Entry("hides no name"));
        }
        let name = CString::new(hidden).map_err(|_| Failure::Entry("hides no name"))?;
        self.hide(dir, &place, name)
    }

    /// Removes all entries of `dir` but those of this layer.
    fn hide_all(&mut self, dir: &OwnedFd, place: &Names) -> Done {
        for name in entries(dir)? {
            self.hide(dir, place, name)?;
        }
        Ok(())
    }

    fn hide(&mut self, dir: &OwnedFd, parents: &Names, name: CString) -> Done {
        let mut place = parents.clone();
        place.push(name.clone());
        let ours = self.made.as_ref().is_some_and(|made| made.contains(&tree::key(&place)));
        if !ours {
            return match self.remove(dir, &name, &place) {
                // Nothing was there to hide.
                Err(Failure::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                done => done,
            };
        }
        match tree::open_dir(dir, &name) {
            Ok(inner) => self.hide_all(&inner, &place),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn entries(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            all.push(name.to_owned());
        }
    }
    Ok(all)
}
