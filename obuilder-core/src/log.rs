//! Build logs: what a step prints, written once and followed by any number of readers.
//!
//! A log is an open file, not a path: the result it belongs to may be renamed or even deleted while
//! readers follow it, and they still see every byte from the start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::cancel::Cancel;
use crate::redact::{Redactor, Stream};

/// The log of one step, while it is being written.
///
/// Cloning gives another handle on the same log. Several threads may write; each call's bytes stay together.
#[derive(Clone)]
pub struct BuildLog {
    inner: Arc<Inner>,
    /// What is written through this handle goes through this first.
    filter: Option<Arc<Mutex<Stream>>>,
}

struct Inner {
    file: File,
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    len: u64,
    /// Most bytes of `len`, but for the note that there were more.
    cap: Option<u64>,
    /// Nothing more is kept.
    full: bool,
    finished: bool,
    begun: Option<Box<dyn FnOnce() + Send>>,
}

impl BuildLog {
    /// Makes an empty log at `path`, which must not exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self::from_file(file))
    }

    /// Makes an empty log on an open, empty file, readable and writable.
    pub fn from_file(file: File) -> Self {
        let inner = Inner { file, state: Mutex::default(), grown: Condvar::new() };
        Self { inner: Arc::new(inner), filter: None }
    }

    /// Another handle on the same log, which hides the secrets in what is written through it.
    ///
    /// The end of what was written may be held back, as long as it may be the beginning of a secret, until more is written
    /// or [`BuildLog::release`] is called.
    pub fn redacted(&self, redactor: &Redactor) -> Self {
        let filter = Arc::new(Mutex::new(redactor.stream()));
        Self { inner: self.inner.clone(), filter: Some(filter) }
    }

    /// Writes what was held back; nothing more comes through this handle and its clones.
    pub fn release(&self) -> io::Result<()> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let rest = filter.lock().unwrap_or_else(PoisonError::into_inner).finish();
        self.append(&rest)
    }

    /// Keeps at most `cap` bytes from now on, and a note that there were more.
    pub fn limit(&self, cap: u64) {
        self.lock().cap = Some(cap);
    }

    /// Adds `bytes` at the end, as far as there is room, and wakes the readers.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(filter) = &self.filter else { return self.append(bytes) };
        // Held while it is written, so that the order is kept.
        let mut filter = filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.append(&filter.push(bytes))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        if bytes.is_empty() || state.full {
            return Ok(());
        }
        let cap = state.cap.unwrap_or(u64::MAX);
        let room = usize::try_from(cap.saturating_sub(state.len)).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.inner.file.write_all_at(kept, state.len)?;
        state.len += kept.len() as u64;
        if kept.len() < bytes.len() {
            state.full = true;
            let note = no_more(cap);
            self.inner.file.write_all_at(note.as_bytes(), state.len)?;
            state.len += note.len() as u64;
        }
        let begun = state.begun.take();
        drop(state);
        self.inner.grown.notify_all();
        begun.into_iter().for_each(|begun| begun());
        Ok(())
    }

    /// Calls `f` once, when the first bytes are written or the log is finished without any.
    pub fn on_begin(&self, f: impl FnOnce() + Send + 'static) {
        self.lock().begun = Some(Box::new(f));
    }

    /// Lets the readers see what another process has written to the file meanwhile; says how many bytes there are.
    pub(crate) fn catch_up(&self) -> io::Result<u64> {
        let written = self.inner.file.metadata()?.len();
        let mut state = self.lock();
        let grown = written > state.len;
        state.len = state.len.max(written);
        let len = state.len;
        drop(state);
        if grown {
            self.inner.grown.notify_all();
        }
        Ok(len)
    }

    /// Whether its bytes are those of `other`, which nobody writes to any more.
    pub(crate) fn is_same(&self, other: &File) -> io::Result<bool> {
        let (ours, theirs) = (self.inner.file.metadata()?, other.metadata()?);
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(true);
        }
        let (mut left, mut position) = (ours.len(), 0);
        let (mut one, mut two) = ([0; 8192], [0; 8192]);
        while ours.len() == theirs.len() && left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(one.len());
            self.inner.file.read_exact_at(&mut one[..piece], position)?;
            other.read_exact_at(&mut two[..piece], position)?;
            if one[..piece] != two[..piece] {
                return Ok(false);
            }
            (left, position) = (left - piece as u64, position + piece as u64);
        }
        Ok(ours.len() == theirs.len())
    }

    /// Says that nothing more will come; readers meet the end of file.
    pub fn finish(&self) {
        let mut state = self.lock();
        state.finished = true;
        let begun = state.begun.take();
        drop(state);
        self.inner.grown.notify_all();
        begun.into_iter().for_each(|begun| begun());
    }

    /// How many bytes have been written.
    pub fn len(&self) -> u64 {
        self.lock().len
    }

    /// Whether nothing has been written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader from the first byte on.
    pub fn reader(&self) -> LogReader {
        LogReader { log: self.clone(), position: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a log of at most `cap` bytes says when there were more.
pub fn no_more(cap: u64) -> String {
    format!("\n[the log has reached its limit of {cap} bytes; the rest is not kept]\n")
}

/// Reads a [`BuildLog`] from the start, waiting for what is still to come.
pub struct LogReader {
    log: BuildLog,
    position: u64,
}

impl LogReader {
    /// Reads some bytes into `buffer`, waiting until there are any.
    ///
    /// Returns 0 at the end of a finished log, and as soon as `cancel` is cancelled.
    pub fn read(&mut self, buffer: &mut [u8], cancel: &Cancel) -> io::Result<usize> {
        let inner = self.log.inner.clone();
        let _wake = cancel.on_cancel(move || {
            // Taking the lock orders this after a waiter's look at the token.
            drop(inner.state.lock().unwrap_or_else(PoisonError::into_inner));
            inner.grown.notify_all();
        });
        let mut state = self.log.lock();
        while state.len == self.position && !state.finished && !cancel.is_cancelled() {
            state = self.log.inner.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let available = if cancel.is_cancelled() { 0 } else { state.len - self.position };
        drop(state);
        let wanted = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.log.inner.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut reader: LogReader) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; 7]);
        loop {
            match reader.read(&mut buffer, &Cancel::new()).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[test]
    fn every_reader_sees_every_byte_even_after_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let log = BuildLog::create(&dir.path().join("log")).unwrap();
        let early = std::thread::spawn({
            let reader = log.reader();
            move || drain(reader)
        });
        log.write(b"one\n").unwrap();
        std::fs::rename(dir.path().join("log"), dir.path().join("moved")).unwrap();
        log.write(b"two, which is longer than the buffer\n").unwrap();
        std::fs::remove_file(dir.path().join("moved")).unwrap();
        log.finish();
        let expected = b"one\ntwo, which is longer than the buffer\n";
        assert_eq!(early.join().unwrap(), expected);
        assert_eq!(drain(log.reader()), expected, "a late reader, after the file has gone");
    }

    #[test]
    fn secrets_are_hidden_from_every_reader() {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let redacted = log.redacted(&Redactor::new([&b"hunter2"[..]]).unwrap());
        for bytes in ["it is hun", "ter2 and hunter", ", hunt"] {
            redacted.write(bytes.as_bytes()).unwrap();
        }
        assert_eq!(log.len(), "it is *** and hunter, ".len() as u64, "the end may be a beginning");
        redacted.release().unwrap();
        log.finish();
        assert_eq!(drain(log.reader()), b"it is *** and hunter, hunt");
    }

    #[test]
    fn a_full_log_says_so_and_keeps_no_more() {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        log.limit(4);
        for bytes in ["12", "345", "678"] {
            log.write(bytes.as_bytes()).unwrap();
        }
        log.finish();
        assert_eq!(drain(log.reader()), format!("1234{}", no_more(4)).as_bytes());
    }

    #[test]
    fn a_cancelled_reader_stops_though_there_is_more() {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        log.write(b"more").unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(log.reader().read(&mut [0; 8], &cancel).unwrap(), 0);
    }

    #[test]
    fn cancelling_wakes_a_waiting_reader() {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let cancel = Cancel::new();
        let waiting = std::thread::spawn({
            let (mut reader, cancel) = (log.reader(), cancel.clone());
            move || reader.read(&mut [0; 8], &cancel).unwrap()
        });
        cancel.cancel();
        assert_eq!(waiting.join().unwrap(), 0);
    }
}
