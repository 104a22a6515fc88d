//! The log of a job: written once, to disk as it grows, read by anybody who follows the job.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use obuilder_core::log::no_more;
use ocluster::CallError;
use ocluster::job::LogChunk;
use tokio::sync::Notify;

/// Most bytes given at once. The original gives 10 KiB; a backlog is read faster in larger pieces.
pub const LARGEST_CHUNK: usize = 256 * 1024;
/// Most bytes of one log that are in memory, and not on disk; with it most logs need no file.
pub const MOST_IN_MEMORY: usize = 16 * 1024;

/// A log. Cloning gives another handle on the same one.
///
/// Its file has no name, so that nothing of it is left when the worker is killed.
#[derive(Clone)]
pub struct JobLog(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    cap: u64,
    state: Mutex<State>,
    grown: Notify,
}

#[derive(Default)]
struct State {
    /// The first bytes; made when they are too many for memory.
    file: Option<Arc<File>>,
    /// How many they are.
    in_file: u64,
    /// Those that follow.
    tail: Vec<u8>,
    /// The last line has no end yet.
    within_line: bool,
    /// Nothing more is kept.
    full: bool,
    finished: bool,
    /// Nothing is kept any more, not even what was.
    forgotten: bool,
}

impl State {
    fn len(&self) -> u64 {
        self.in_file + self.tail.len() as u64
    }

    /// Moves what is in memory to the file, made in `dir` when there is none.
    fn spill(&mut self, dir: &Path) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => Arc::new(tempfile::tempfile_in(dir)?),
        };
        let file = self.file.insert(file);
        file.write_all_at(&self.tail, self.in_file)?;
        self.in_file += self.tail.len() as u64;
        self.tail.clear();
        Ok(())
    }
}

impl JobLog {
    /// An empty log that keeps at most `cap` bytes, in the directory `dir`, and tells when there were more.
    pub fn new(dir: &Path, cap: u64) -> Self {
        let (state, grown) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { dir: dir.to_owned(), cap, state, grown }))
    }

    /// Adds `bytes`, as far as there is room.
    pub fn write(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.full || state.finished || bytes.is_empty() {
            return;
        }
        let room = usize::try_from(self.0.cap - state.len()).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.append(&mut state, kept);
        if kept.len() < bytes.len() && !state.full {
            (state.full, state.within_line) = (true, false);
            state.tail.extend_from_slice(no_more(self.0.cap).as_bytes());
        }
        drop(state);
        self.0.grown.notify_waiters();
    }

    /// Adds the last words, in a line of their own whether or not there is room, and ends the log. Later words are not kept.
    pub fn finish(&self, last: &str) {
        let mut state = self.lock();
        if !state.finished {
            // A step that was stopped may have been cut off in the middle of a line.
            let end = if state.within_line && !last.is_empty() { "\n" } else { "" };
            state.tail.extend_from_slice([end, last].concat().as_bytes());
            state.finished = true;
        }
        drop(state);
        self.0.grown.notify_waiters();
    }

    /// What a log that has ended takes as long as it is kept.
    pub fn kept_after_its_end(&self) -> Option<Kept> {
        let state = self.lock();
        let kept = state.finished && !state.forgotten;
        kept.then(|| Kept { bytes: state.len(), file: state.file.is_some() })
    }

    /// Makes room: nobody can read it any more.
    pub fn forget(&self) {
        let mut state = self.lock();
        *state = State { in_file: state.len(), full: true, forgotten: true, ..State::default() };
        drop(state);
        self.0.grown.notify_waiters();
    }

    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.lock().len()
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
            if let Some(found) = self.at(&mut from, start) {
                return found;
            }
            grown.await;
        }
    }

    /// What can be said now to who asks for `start`, which was `from` when it was first asked for.
    fn at(&self, from: &mut Option<u64>, start: i64) -> Option<Result<LogChunk, CallError>> {
        let state = self.lock();
        if state.forgotten {
            return Some(Err(CallError::Failed("this log is no longer kept".into())));
        }
        let start = *from.get_or_insert_with(|| position(start, state.len()));
        let Some(available) = state.len().checked_sub(start) else {
            return Some(Err(CallError::Failed("Start value out of range!".into())));
        };
        if available == 0 && !state.finished {
            return None;
        }
        let Some(in_file) = state.in_file.checked_sub(start).filter(|bytes| *bytes > 0) else {
            let at = usize::try_from(start - state.in_file).unwrap_or(usize::MAX);
            let wanted = (state.tail.len() - at).min(LARGEST_CHUNK);
            return Some(Ok(chunk(start, state.tail[at..at + wanted].to_vec())));
        };
        let file = state.file.clone();
        drop(state);
        let wanted = usize::try_from(in_file).unwrap_or(usize::MAX).min(LARGEST_CHUNK);
        let mut bytes = vec![0; wanted];
        let read = file.map_or(Ok(()), |file| file.read_exact_at(&mut bytes, start));
        let failed = |error| CallError::Failed(format!("failed to read the log: {error}"));
        Some(read.map_err(failed).map(|()| chunk(start, bytes)))
    }

    /// Adds `bytes`, and when they cannot be kept says that instead.
    fn append(&self, state: &mut State, bytes: &[u8]) {
        state.tail.extend_from_slice(bytes);
        state.within_line = bytes.last().map_or(state.within_line, |byte| *byte != b'\n');
        if state.tail.len() <= MOST_IN_MEMORY {
            return;
        }
        if let Err(error) = state.spill(&self.0.dir) {
            let dir = self.0.dir.display();
            tracing::error!("failed to write a job's log in `{dir}`: {error}");
            (state.full, state.within_line) = (true, false);
            state.tail.truncate(MOST_IN_MEMORY);
            let note = format!("\n[the worker cannot keep the rest of this log: {error}]\n");
            state.tail.extend_from_slice(note.as_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a log takes that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its length.
    pub bytes: u64,
    /// Whether it is on disk, and takes a descriptor.
    pub file: bool,
}

fn chunk(start: u64, bytes: Vec<u8>) -> LogChunk {
    let next = i64::try_from(start + bytes.len() as u64).unwrap_or(i64::MAX);
    LogChunk { bytes, next }
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
        JobLog::new(&std::env::temp_dir(), cap)
    }

    fn chunk(bytes: &[u8], next: i64) -> LogChunk {
        LogChunk { bytes: bytes.to_vec(), next }
    }

    async fn all(log: &JobLog) -> Vec<u8> {
        let (mut at, mut all) = (0, Vec::new());
        loop {
            let chunk = log.read(at).await.unwrap();
            if chunk.bytes.is_empty() {
                return all;
            }
            all.extend(chunk.bytes);
            at = chunk.next;
        }
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
    async fn what_is_in_memory_follows_what_is_on_disk() {
        let log = log(1 << 20);
        let mut written = Vec::new();
        for number in 0..10_000 {
            let line = format!("line {number}\n");
            written.extend_from_slice(line.as_bytes());
            log.write(line.as_bytes());
            assert!(log.lock().tail.len() <= MOST_IN_MEMORY);
        }
        log.finish("end\n");
        written.extend_from_slice(b"end\n");
        assert_eq!(log.len(), written.len() as u64);
        assert!(log.lock().in_file > 0 && !log.lock().tail.is_empty());
        assert_eq!(all(&log).await, written);
    }

    #[tokio::test]
    async fn the_last_words_are_a_line_of_their_own() {
        let log = log(1 << 20);
        log.write(b"1\n2");
        log.finish("Job cancelled\n");
        assert_eq!(all(&log).await, b"1\n2\nJob cancelled\n");
    }

    #[tokio::test]
    async fn a_short_log_needs_no_file() {
        let log = JobLog::new(Path::new("/nonexistent"), 1 << 20);
        log.write(b"hello\n");
        log.finish("Job succeeded\n");
        assert_eq!(all(&log).await, b"hello\nJob succeeded\n");
        assert_eq!(log.kept_after_its_end(), Some(Kept { bytes: 20, file: false }));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_kept_says_so_and_has_its_last_words() {
        let log = JobLog::new(Path::new("/nonexistent"), 1 << 20);
        log.write(&vec![b'x'; MOST_IN_MEMORY + 1]);
        log.write(b"more");
        log.finish("Job succeeded\n");
        let text = String::from_utf8(all(&log).await).unwrap();
        let (kept, said) = text.split_at(MOST_IN_MEMORY);
        assert!(kept.bytes().all(|byte| byte == b'x'));
        assert!(said.starts_with("\n[the worker cannot keep the rest of this log: "), "{said}");
        assert!(said.ends_with("]\nJob succeeded\n"), "{said}");
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
        log.write(&vec![b'x'; MOST_IN_MEMORY + 1]);
        assert_eq!(log.kept_after_its_end(), None, "it has not ended");
        log.finish("!");
        let bytes = MOST_IN_MEMORY as u64 + 3;
        assert_eq!(log.kept_after_its_end(), Some(Kept { bytes, file: true }));
        log.forget();
        assert_eq!(log.kept_after_its_end(), None);
        assert!(log.lock().file.is_none(), "its descriptor is closed");
        assert_eq!(log.len(), bytes);
        assert_eq!(log.read(0).await.unwrap_err().to_string(), "this log is no longer kept");
    }
}
