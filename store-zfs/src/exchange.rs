//! Putting a new version of a cache in the place of the newest one. What is under way is written down, so that whoever comes after a
//! kill brings it to an end.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use obuilder_core::error::StoreError;

use crate::layout::{Pool, failed};
use crate::lock::Locked;

/// Held alone while a newest version is replaced.
pub(crate) fn lock(pool: &Pool) -> Result<Locked, StoreError> {
    let path = lock_file(pool);
    let lock = Locked::alone(&path).map_err(|e| failed("lock", &path, e))?;
    mend(pool)?;
    Ok(lock)
}

/// Held while a newest version must stay where it is.
pub(crate) fn shared_lock(pool: &Pool) -> Result<Locked, StoreError> {
    let path = lock_file(pool);
    loop {
        let shared = Locked::shared(&path).map_err(|e| failed("lock", &path, e))?;
        if !journal(pool).exists() {
            return Ok(shared);
        }
        drop(shared);
        drop(lock(pool)?);
    }
}

/// Has what is at `new` below the pool take the place of `newest`, and `newest` go to `old`; the caller has the lock alone.
pub(crate) fn exchange(pool: &Pool, newest: &str, new: &str, old: &str) -> Result<(), StoreError> {
    let path = journal(pool);
    // In one pool nothing that is written later is there without what was written before.
    fs::write(&path, format!("{newest}\n{new}\n{old}\n")).map_err(|e| failed("write", &path, e))?;
    let done = pool.rename(newest, old).and_then(|()| pool.rename(new, newest));
    if done.is_err() {
        // So that the version before is there again, if that can be.
        mend(pool)?;
        return done;
    }
    fs::remove_file(&path).map_err(|e| failed("remove", &path, e))
}

/// Ends what somebody began: the new version takes its place, or else the old one has it again.
fn mend(pool: &Pool) -> Result<(), StoreError> {
    let path = journal(pool);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|e| failed("read", &path, e))?,
    };
    // One that was not written to its end was not acted upon.
    if let [newest, new, old] = text.lines().collect::<Vec<_>>()[..]
        && text.ends_with('\n')
    {
        let names = [newest, new, old].map(|path| pool.dataset(path));
        let wanted = ["-t", "filesystem", "-o", "name"];
        let there = pool.zfs.table(&wanted, &names.each_ref().map(String::as_str))?;
        let is_there = |name: &String| there.iter().any(|row| row[0] == *name);
        if !is_there(&names[0]) {
            let heirs = [(new, &names[1]), (old, &names[2])];
            if let Some((heir, _)) = heirs.iter().find(|(_, name)| is_there(name)) {
                pool.rename(heir, newest)?;
            }
        }
    }
    fs::remove_file(&path).map_err(|e| failed("remove", &path, e))
}

fn lock_file(pool: &Pool) -> PathBuf {
    pool.locks().join("caches")
}

fn journal(pool: &Pool) -> PathBuf {
    pool.locks().join("exchange")
}
