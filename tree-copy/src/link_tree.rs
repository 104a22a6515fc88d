//! Makes a tree of hard links to another.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};

use crate::copy::{Copied, Copier, Options, Pair};
use crate::error::Error;
use crate::listing::Entry;
use crate::place::Place;
use crate::queue;
use crate::walk::{Visitor, walk};

/// Makes `to`, a new directory or an empty one, a copy of `from` whose files are those of `from`. Nobody may ever write to either
/// again. An error, such as a file that may not be linked, leaves `to` half made. Says what could not be kept of directories.
pub fn link_tree(from: &Path, to: &Path, options: &Options<'_>) -> Result<Copied, Error> {
    let linker = Linker(Copier::new(from, to, options)?);
    let first = linker.0.reopen(&Place::root())?;
    walk(&linker, first, options.threads.unwrap_or_else(queue::threads_that_wait))?;
    Ok(linker.0.tally.into_report())
}

struct Linker<'a>(Copier<'a>);

impl Visitor for Linker<'_> {
    type Dir = Pair;

    fn open(&self, parent: &Pair, name: &CStr, place: &Place) -> Result<Pair, Error> {
        self.0.open(parent, name, place)
    }

    fn reopen(&self, place: &Place) -> Result<Pair, Error> {
        self.0.reopen(place)
    }

    fn listed<'a>(&self, dir: &'a Pair) -> BorrowedFd<'a> {
        dir.from.as_fd()
    }

    fn visit(&self, dir: &Pair, place: &Arc<Place>, entries: &[Entry]) -> Result<(), Error> {
        for Entry { name, kind, .. } in entries {
            if self.cancelled() {
                return Err(Error::Cancelled);
            }
            let done = match kind {
                FileType::Directory => rustix::fs::mkdirat(&dir.to, name, Mode::RWXU),
                _ => rustix::fs::linkat(&dir.from, name, &dir.to, name, AtFlags::empty()),
            };
            done.map_err(|e| self.0.to_error("link", place, Some(name), e))?;
        }
        Ok(())
    }

    fn finish(&self, dir: &Pair, place: &Place) -> Result<(), Error> {
        self.0.finish(dir, place)
    }

    fn path(&self, place: &Place, name: Option<&CStr>) -> PathBuf {
        self.0.path(place, name)
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
