//! Room that is kept back, so that room can be made on a full disk: even deleting takes some, for the index.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Bytes kept back.
const SIZE: usize = 1 << 20;

/// Nothing is kept back on a volume with fewer bytes free than this.
const PLENTY: u64 = 8 << 20;

/// Name of the file that takes up the room.
const FILE: &str = "obuild-reserve";

/// Keeps some room back, if it is not yet and `free` bytes leave enough.
pub(super) fn keep(state: &Path, free: u64) {
    let path = state.join(FILE);
    if free < PLENTY || path.exists() {
        return;
    }
    if let Err(error) = fill(&path) {
        tracing::debug!("failed to keep room back in `{}`: {error}", path.display());
        release(state);
    }
}

fn fill(path: &Path) -> io::Result<()> {
    let mut file = match File::create_new(path) {
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        created => created?,
    };
    // Not all alike, as a filesystem may make little of that.
    let mut number = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        number = number.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f372);
        number.to_be_bytes()[0]
    })
    .take(SIZE)
    .collect();
    file.write_all(&bytes)
}

/// Gives the room back that is kept in the directory `state` of a store, which a store that cannot be opened without it may do too.
pub fn release(state: &Path) {
    let path = state.join(FILE);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!("failed to remove `{}`: {error}", path.display());
    }
}

/// Whether `free` bytes are too few for what even deleting takes.
pub(super) fn is_needed(free: u64) -> bool {
    free < SIZE as u64
}
