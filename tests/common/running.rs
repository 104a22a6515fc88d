//! A command that runs, and what it said in the end.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::BOUND;

/// A running command; killed when dropped.
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

/// What a command said.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn follow(mut source: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { text, thread: Some(thread) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Stream::follow(child.stdout.take().unwrap());
        let stderr = Stream::follow(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Waits until standard output holds `text`.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + BOUND;
        while !self.stdout.so_far().contains(text) {
            let ended = self.child.try_wait().unwrap();
            let (out, err) = (self.stdout.so_far(), self.stderr.so_far());
            let said = format!("waiting for {text:?}; stdout:\n{out}\nstderr:\n{err}");
            assert!(ended.is_none() || out.contains(text), "ended while {said}");
            assert!(Instant::now() < deadline, "timed out {said}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        self.stdout.so_far()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end, which must come within the bound.
    pub fn finish(mut self) -> Finished {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let (out, err) = (self.stdout.so_far(), self.stderr.so_far());
            assert!(started.elapsed() < BOUND, "it hangs; stdout:\n{out}\nstderr:\n{err}");
            thread::sleep(Duration::from_millis(1));
        };
        let (stdout, stderr) = (self.stdout.all(), self.stderr.all());
        Finished { status, stdout, stderr, elapsed: started.elapsed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn success(self) -> Self {
        self.code(0)
    }

    #[track_caller]
    pub fn killed_by(self, signal: Signal) -> Self {
        assert_eq!(self.status.signal(), Some(signal as i32), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "standard error lacks {text:?}:\n{self:#?}");
        self
    }

    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "standard output lacks {text:?}:\n{self:#?}");
        self
    }

    #[track_caller]
    pub fn prints_not(self, text: &str) -> Self {
        assert!(!self.stdout.contains(text), "standard output has {text:?}:\n{self:#?}");
        self
    }

    /// The id in the last line, `Got: "ID"`.
    #[track_caller]
    pub fn got(&self) -> String {
        let last = self.stdout.lines().last().unwrap_or_default();
        let id = last.strip_prefix("Got: \"").and_then(|rest| rest.strip_suffix('"'));
        id.unwrap_or_else(|| panic!("no id: {self:#?}")).to_owned()
    }

    /// Ids of the steps that were built, not taken from the cache.
    pub fn saved(&self) -> Vec<String> {
        let id =
            |line: &str| Some(line.split_once("---> saved as \"")?.1.strip_suffix('"')?.to_owned());
        self.stdout.lines().filter_map(id).collect()
    }
}
