//! Hard links within a tree: which inode has already been copied, and to where.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::place::Place;

/// Where the first copy of an inode lies; `None` when it could not be made.
type Made = Arc<OnceLock<Option<(Arc<Place>, CString)>>>;

/// Inodes with several names that have been met.
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<(u64, u64), Made>>);

/// What to do with a name of an inode that has several.
pub(crate) enum Turn {
    /// It is the first: copy it, then say where.
    Copy(Maker),
    /// Link to the copy that lies there.
    Link(Arc<Place>, CString),
    /// The first copy failed; so does the whole.
    Failed,
}

/// The duty to say where the first copy lies. Dropping it says that there is none.
pub(crate) struct Maker(Made);

impl Maker {
    /// The copy is `name` in `place`; others may link to it from now on.
    pub(crate) fn made(self, place: &Arc<Place>, name: &CStr) {
        let _ = self.0.set(Some((place.clone(), name.to_owned())));
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _ = self.0.set(None);
    }
}

impl Links {
    /// Whose turn it is for `inode`. Waits while another thread makes the first copy.
    pub(crate) fn turn(&self, inode: (u64, u64)) -> Turn {
        let (made, first) = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(&inode) {
                Some(made) => (made.clone(), false),
                None => (all.entry(inode).or_default().clone(), true),
            }
        };
        if first {
            return Turn::Copy(Maker(made));
        }
        match made.wait() {
            Some((place, name)) => Turn::Link(place.clone(), name.clone()),
            None => Turn::Failed,
        }
    }
}
