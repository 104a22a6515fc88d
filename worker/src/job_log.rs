//! The log of a job: on disk, written once, read by anybody who follows the job.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use obuilder_core::log::no_more;
use ocluster::CallError;
use ocluster::job::LogChunk;
use tokio::sync::Notify;

/// Most bytes given at once. The original gives 10 KiB; a backlog is read faster in larger pieces.
pub const LARGEST_CHUNK: usize = 64 * 1024;

/// A log. Cloning gives another handle on the same one.
///
/// It has no name in the file system, so that nothing of it is left when the worker is killed.
#[derive(Clone)]
pub struct JobLog(Arc<Inner>);

struct Inner {
    file: File,
    cap: u64,
    state: Mutex<State>,
    grown: Notify,
}

#[derive(Default)]
struct State {
    len: u64,
    /// Nothing more is kept.
    full: bool,
    finished: bool,
    /// Nothing is kept any more.
    forgotten: bool,
}

impl JobLog {
    /// Makes an empty log in the directory `dir` that keeps at most `cap` bytes and tells when there were more.
    pub fn create(dir: &Path, cap: u64) -> io::Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        Ok(Self(Arc::new(Inner { file, cap, state: Mutex::default(), grown: Notify::new() })))
    }

    /// Adds `bytes`, as far as there is room.
    pub fn write(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.full || state.finished || bytes.is_empty() {
            return;
        }
        let room = usize::try_from(self.0.cap - state.len).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.append(&mut state, kept);
        if kept.len() < bytes.len() {
            state.full = true;
            self.append(&mut state, no_more(self.0.cap).as_bytes());
        }
        drop(state);
        self.0.grown.notify_waiters();
    }

    /// Adds the last words, whether or not there is room, and ends the log. Later words are not kept.
    pub fn finish(&self, last: &str) {
        let mut state = self.lock();
        if !state.finished {
            self.append(&mut state, last.as_bytes());
            state.finished = true;
        }
        drop(state);
        self.0.grown.notify_waiters();
    }

    /// How many bytes of a log that has ended are on the disk.
    pub fn kept_after_its_end(&self) -> u64 {
        let state = self.lock();
        if state.finished && !state.forgotten { state.len } else { 0 }
    }

    /// Makes room: nobody can read it any more.
    pub fn forget(&self) {
        let mut state = self.lock();
        (state.forgotten, state.full) = (true, true);
        if let Err(error) = self.0.file.set_len(0) {
            tracing::error!("failed to empty a job's log: {error}");
        }
        drop(state);
        self.0.grown.notify_waiters();
    }

    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.lock().len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until there is something at `start`, and gives some of it; nothing at the end of a finished log.
    ///
    /// A negative `start` counts from the end as it is when asked.
    pub async fn read(&self, start: i64) -> Result<LogChunk, CallError> {
        let mut from = None;
        loop {
            let grown = self.0.grown.notified();
            tokio::pin!(grown);
            // From here on no word is missed.
            grown.as_mut().enable();
            {
                let state = self.lock();
                if state.forgotten {
                    return Err(CallError::Failed("this log is no longer kept".into()));
                }
                let start = *from.get_or_insert_with(|| position(start, state.len));
                let Some(available) = state.len.checked_sub(start) else {
                    return Err(CallError::Failed("Start value out of range!".into()));
                };
                if available > 0 || state.finished {
                    drop(state);
                    return self.chunk(start, available);
                }
            }
            grown.await;
        }
    }

    fn chunk(&self, start: u64, available: u64) -> Result<LogChunk, CallError> {
        let wanted = usize::try_from(available).unwrap_or(usize::MAX).min(LARGEST_CHUNK);
        let mut bytes = vec![0; wanted];
        let failed = |error| CallError::Failed(format!("failed to read the log: {error}"));
        self.0.file.read_exact_at(&mut bytes, start).map_err(failed)?;
        let next = i64::try_from(start + wanted as u64).unwrap_or(i64::MAX);
        Ok(LogChunk { bytes, next })
    }

    fn append(&self, state: &mut State, bytes: &[u8]) {
        match self.0.file.write_all_at(bytes, state.len) {
            Ok(()) => state.len += bytes.len() as u64,
            Err(error) => {
                tracing::error!("failed to write a job's log: {error}");
                state.full = true;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where `start` is in a log of `len` bytes.
fn position(start: i64, len: u64) -> u64 {
    match u64::try_from(start) {
        Ok(start) => start,
        Err(_) => len.saturating_sub(start.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(cap: u64) -> JobLog {
        JobLog::create(&std::env::temp_dir(), cap).unwrap()
    }

    fn chunk(bytes: &[u8], next: i64) -> LogChunk {
        LogChunk { bytes: bytes.to_vec(), next }
    }

    #[tokio::test]
    async fn any_part_can_be_read() {
        let log = log(1 << 20);
        log.write(b"hello");
        assert_eq!(log.read(0).await.unwrap(), chunk(b"hello", 5));
        assert_eq!(log.read(3).await.unwrap(), chunk(b"lo", 5));
        assert_eq!(log.read(-2).await.unwrap(), chunk(b"lo", 5));
        assert_eq!(log.read(-99).await.unwrap(), chunk(b"hello", 5));
        assert_eq!(log.read(i64::MIN).await.unwrap(), chunk(b"hello", 5));
        let error = log.read(6).await.unwrap_err();
        assert_eq!(error.to_string(), "Start value out of range!");
        assert!(log.read(i64::MAX).await.is_err());
        log.finish("");
        assert_eq!(log.read(5).await.unwrap(), chunk(b"", 5));
        log.write(b"too late");
        assert_eq!(log.len(), 5);
    }

    #[tokio::test]
    async fn what_is_not_there_is_waited_for() {
        let log = log(1 << 20);
        let waiting = tokio::spawn({
            let log = log.clone();
            async move { (log.read(0).await.unwrap(), log.read(3).await.unwrap()) }
        });
        tokio::task::yield_now().await;
        log.write(b"one");
        tokio::task::yield_now().await;
        log.finish("");
        assert_eq!(waiting.await.unwrap(), (chunk(b"one", 3), chunk(b"", 3)));
    }

    #[tokio::test]
    async fn chunks_are_bounded() {
        let log = log(1 << 20);
        log.write(&vec![b'x'; LARGEST_CHUNK + 1]);
        assert_eq!(log.read(0).await.unwrap().bytes.len(), LARGEST_CHUNK);
        assert_eq!(log.read(LARGEST_CHUNK as i64).await.unwrap().bytes, b"x");
    }

    #[tokio::test]
    async fn a_full_log_says_so_and_has_its_last_words() {
        let log = log(4);
        log.write(b"12");
        log.write(b"345");
        log.write(b"678");
        log.finish("Job succeeded\n");
        let text = String::from_utf8(log.read(0).await.unwrap().bytes).unwrap();
        let note = "\n[the log has reached its limit of 4 bytes; the rest is not kept]\n";
        assert_eq!(text, format!("1234{note}Job succeeded\n"));
    }

    #[tokio::test]
    async fn a_forgotten_log_says_so() {
        let log = log(1 << 20);
        log.write(b"hello");
        assert_eq!(log.kept_after_its_end(), 0, "it has not ended");
        log.finish("!");
        assert_eq!(log.kept_after_its_end(), 6);
        log.forget();
        assert_eq!(log.kept_after_its_end(), 0);
        assert_eq!(log.0.file.metadata().unwrap().len(), 0);
        assert_eq!(log.read(0).await.unwrap_err().to_string(), "this log is no longer kept");
    }
}
