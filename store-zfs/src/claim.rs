//! The place of a result that is being made in it: a clone without a snapshot, as OBuilder makes it, of which others can tell that its
//! maker lives.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use obuilder_core::ResultId;
use obuilder_core::error::StoreError;

use crate::layout::{Kind, Pool, failed};
use crate::lock::{Locked, Own};
use crate::store::Inner;

/// What is written below the name of a clone before it is moved aside.
const MOVED: &str = "moved";

/// Held by whoever makes a result in its place.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: Own,
    file: PathBuf,
    /// Below the pool, for the time when somebody else's result has taken the place.
    pub(crate) aside: String,
}

impl Claim {
    /// Whether what is made lies aside by now; the caller has the lock of the place.
    pub(crate) fn is_aside(&self, pool: &Pool) -> Result<bool, StoreError> {
        let claimed = read(&self.file)?;
        // Who wrote that may have been killed before it was done.
        Ok(claimed.is_some_and(|claimed| claimed.moved)
            && pool.zfs.exists(&pool.dataset(&self.aside))?)
    }
}

/// What the file of a claim tells.
struct Claimed {
    aside: String,
    moved: bool,
}

/// Nothing if there is no file, or its maker was killed before it had made anything.
fn read(file: &Path) -> Result<Option<Claimed>, StoreError> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| failed("read", file, e))?,
    };
    let mut lines = text.split_inclusive('\n');
    let aside = lines.next().and_then(|line| line.strip_suffix('\n')).map(str::to_owned);
    Ok(aside.map(|aside| Claimed { aside, moved: lines.next().is_some() }))
}

impl Inner {
    /// Claims the place of `id` for what is else made at `aside`, unless somebody has it, or was killed when they had.
    pub(crate) fn claim(&self, id: &ResultId, aside: &str) -> Result<Option<Claim>, StoreError> {
        let file = self.pool.claim(id);
        let lock = Locked::try_alone(&file).map_err(|e| failed("lock", &file, e))?;
        let Some(lock) = lock else { return Ok(None) };
        if read(&file)?.is_some() {
            return Ok(None);
        }
        fs::write(&file, format!("{aside}\n")).map_err(|e| failed("write", &file, e))?;
        Ok(Some(Claim { _lock: Own::new(lock), file, aside: aside.to_owned() }))
    }

    /// Whether somebody who lives makes `id` in its place.
    pub(crate) fn is_claimed(&self, id: &ResultId) -> Result<bool, StoreError> {
        let file = self.pool.claim(id);
        Locked::is_held(&file).map_err(|e| failed("look at", &file, e))
    }

    /// Held while what has no snapshot in the place of `id` gets one, or is taken away.
    pub(crate) fn place_lock(&self, id: &ResultId) -> Result<Locked, StoreError> {
        let file = self.pool.place(id);
        Locked::alone(&file).map_err(|e| failed("lock", &file, e))
    }

    /// Where what was made of `id` in its place is mounted, if we have made it.
    pub(crate) fn claimed_dir(&self, id: &ResultId) -> Result<Option<PathBuf>, StoreError> {
        Ok(read(&self.pool.claim(id))?.map(|claimed| self.pool.dir(&claimed.aside)))
    }

    /// Moves aside what somebody makes in the place of `id`, who goes on with it there. Says whether there is somebody.
    pub(crate) fn move_aside(&self, id: &ResultId) -> Result<bool, StoreError> {
        let _place = self.place_lock(id)?;
        let (path, file) = (Pool::of(Kind::Result, id), self.pool.claim(id));
        let Some(claimed) = read(&file)?.filter(|_| self.is_claimed(id).unwrap_or(true)) else {
            return Ok(false);
        };
        if claimed.moved && self.pool.zfs.exists(&self.pool.dataset(&claimed.aside))? {
            // What is in the place by now is another's.
            return Ok(false);
        }
        let told = File::options().append(true).open(&file);
        let told = told.and_then(|mut file| writeln!(file, "{MOVED}"));
        told.map_err(|e| failed("write", &file, e))?;
        self.pool.rename_mounted(&path, &claimed.aside).map(|()| true)
    }
}
