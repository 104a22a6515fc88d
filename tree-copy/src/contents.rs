//! What a file holds, brought into a new one.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::{Errno, Result};

use crate::platform;

/// Size of the pieces that are read and written; larger ones fall out of the processor's cache.
const PIECE: usize = 128 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Copies what `from`, a file of `size` bytes, holds into the empty file `to`, leaving holes where it has some when it is
/// `sparse`. Returns the number of bytes written. `stop` is asked between pieces.
pub(crate) fn copy_contents(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    sparse: bool,
    stop: &dyn Fn() -> bool,
) -> Result<u64> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(PIECE, 0);
        if sparse {
            copy_sparse(from, to, buffer, stop)
        } else {
            copy_rest(from, to, size, buffer, stop)
        }
    })
}

fn copy_rest(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<u64> {
    let mut copied = 0;
    // Once the whole size has come, asking for more would only confirm the end: one call saved for every small file.
    while copied < size {
        let moved = transfer(from, to, size - copied, buffer)?;
        if moved == 0 {
            break;
        }
        copied += moved;
        if copied < size && stop() {
            return Err(Errno::CANCELED);
        }
    }
    Ok(copied)
}

fn copy_sparse(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<u64> {
    let (mut end, mut copied) = (0, 0);
    loop {
        let start = match rustix::fs::seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(to, SeekFrom::Start(start))?;
        copied += copy_exactly(from, to, end - start, buffer, stop)?;
    }
    rustix::fs::ftruncate(to, rustix::fs::fstat(from)?.st_size.unsigned_abs())?;
    Ok(copied)
}

fn copy_exactly(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    length: u64,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<u64> {
    let mut left = length;
    while left > 0 {
        let moved = transfer(from, to, left, buffer)?;
        if moved == 0 {
            break;
        }
        left -= moved;
        if stop() {
            return Err(Errno::CANCELED);
        }
    }
    Ok(length - left)
}

/// Brings the next bytes, at most `most`, from where `from` stands to where `to` stands; returns how many, 0 at the end.
fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: u64, buffer: &mut [u8]) -> Result<u64> {
    let most = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
    match retry(|| platform::send(from, to, most)) {
        // Not between these two filesystems, or not on this system.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        sent => return sent.map(|sent| sent as u64),
    }
    let read = retry(|| rustix::io::read(from, &mut buffer[..most]))?;
    write_all(to, &buffer[..read])?;
    Ok(read as u64)
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = retry(|| rustix::io::write(to, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Whether two open files, at their start, hold the same bytes.
pub(crate) fn same_contents(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool> {
    let (mut left, mut right) = (vec![0; PIECE / 2], vec![0; PIECE / 2]);
    loop {
        let (read, other) = (fill(a, &mut left)?, fill(b, &mut right)?);
        if left[..read] != right[..other] {
            return Ok(false);
        }
        if read < left.len() {
            return Ok(true);
        }
    }
}

fn fill(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match retry(|| rustix::io::read(from, &mut buffer[filled..]))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
