//! A job as its holders see it: its log, its end, and their wish that it stop.

use std::cell::Cell;

use obuilder_core::Cancel;
use ocluster::CallError;
use ocluster::job::{LogChunk, Served};
use tokio::sync::watch;

use crate::job_log::JobLog;

/// Most calls for the log of one job, or for its end, that may wait at once; whoever asks for more has lost count.
const MOST_READERS: usize = 4096;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It gave this.
    Succeeded(String),
    /// It failed: why, for the log.
    Failed(String),
    /// It was asked to stop.
    Cancelled,
}

/// A job that a worker does, or waits to be given.
pub struct Job {
    log: JobLog,
    cancel: Cancel,
    end: watch::Sender<Option<Result<String, CallError>>>,
    readers: Cell<usize>,
    held: watch::Sender<bool>,
}

impl Job {
    /// A job that has not begun.
    pub fn new(log: JobLog) -> Self {
        Self {
            log,
            cancel: Cancel::new(),
            end: watch::Sender::new(None),
            readers: Cell::new(0),
            held: watch::Sender::new(true),
        }
    }

    /// Its log.
    pub fn log(&self) -> &JobLog {
        &self.log
    }

    /// Cancelled when the job is to stop.
    pub fn token(&self) -> &Cancel {
        &self.cancel
    }

    /// Writes the last words and tells everybody how it ended. What the log says in full the result says in two words.
    pub fn finish(&self, outcome: Outcome) {
        let (last, result) = match outcome {
            Outcome::Succeeded(output) => ("Job succeeded\n".to_owned(), Ok(output)),
            Outcome::Cancelled => ("Job cancelled\n".to_owned(), Err("Build cancelled")),
            Outcome::Failed(why) => (format!("{why}\n"), Err("Build failed")),
        };
        self.log.finish(&last);
        self.end.send_replace(Some(result.map_err(|text| CallError::Failed(text.into()))));
    }

    fn reader(&self) -> Result<Reader<'_>, CallError> {
        if self.readers.get() >= MOST_READERS {
            return Err(CallError::Overloaded("too many calls wait for this job".into()));
        }
        Ok(Reader::new(&self.readers))
    }

    /// Waits until nobody holds it any more.
    pub async fn until_released(&self) {
        let mut held = self.held.subscribe();
        // The sender lives as long as this job.
        let _ = held.wait_for(|held| !held).await;
    }
}

impl Served for Job {
    async fn log(&self, start: i64) -> Result<LogChunk, CallError> {
        let _reader = self.reader()?;
        self.log.read(start).await
    }

    async fn result(&self) -> Result<String, CallError> {
        let _reader = self.reader()?;
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await;
        let gone = || CallError::Failed("the worker has gone".into());
        ended.map_err(|_| gone())?.clone().unwrap_or_else(|| Err(gone()))
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }

    fn released(&self) {
        self.held.send_replace(false);
        self.cancel.cancel();
    }
}

/// Counts one reader while it lives.
struct Reader<'a>(&'a Cell<usize>);

impl<'a> Reader<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::new(JobLog::new(&std::env::temp_dir(), 1 << 20))
    }

    async fn check(outcome: Outcome, last: &str, result: Result<&str, &str>) {
        let job = job();
        job.finish(outcome);
        assert_eq!(Served::log(&job, 0).await.unwrap().bytes, last.as_bytes());
        let result = result.map(str::to_owned).map_err(|text| CallError::Failed(text.into()));
        assert_eq!(job.result().await, result);
    }

    #[tokio::test]
    async fn ends_are_told_in_the_originals_words() {
        check(Outcome::Succeeded("id".into()), "Job succeeded\n", Ok("id")).await;
        check(Outcome::Cancelled, "Job cancelled\n", Err("Build cancelled")).await;
        check(Outcome::Failed("it broke".into()), "it broke\n", Err("Build failed")).await;
    }

    #[tokio::test]
    async fn releasing_it_cancels_it() {
        let job = job();
        assert!(!job.token().is_cancelled());
        job.released();
        assert!(job.token().is_cancelled());
        job.until_released().await;
    }

    #[tokio::test]
    async fn waiting_calls_are_bounded() {
        let job = job();
        let mut waiting: Vec<_> =
            (0..MOST_READERS).map(|_| Box::pin(Served::log(&job, 0))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        assert!(matches!(Served::log(&job, 0).await, Err(CallError::Overloaded(_))));
        assert!(matches!(job.result().await, Err(CallError::Overloaded(_))));
        waiting.pop();
        assert!(futures::poll!(Box::pin(Served::log(&job, 0))).is_pending());
    }
}
