//! Telling the kernel that a name at the top is no longer good for everybody.
//!
//! A name that is renamed to the top from further below keeps the time that it was good for there, so the next user
//! could meet it. The kernel is told right after the rename; until it has taken note, nobody passes the top:
//! every way through it asks for its attributes first, and that answer waits.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::TOP;

type Waiting = Box<dyn FnOnce() + Send>;

/// Names that the kernel has yet to take note of, and who waits for that.
#[derive(Default)]
struct State {
    pending: usize,
    waiting: Vec<Waiting>,
    sender: Option<Sender<CString>>,
}

/// Tells the kernel of names.
#[derive(Default)]
pub(crate) struct Notices {
    state: Mutex<State>,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").field("pending", &self.state().pending).finish()
    }
}

impl Notices {
    /// Begins to send notices through the kernel's `device`. The thread ends with [`Self::stop`].
    pub(crate) fn start(self: &std::sync::Arc<Self>, device: OwnedFd) -> std::io::Result<()> {
        let (sender, names) = channel();
        self.state().sender = Some(sender);
        let notices = self.clone();
        let thread = thread::Builder::new().name("usrlocal-notices".into());
        thread.spawn(move || notices.send(&names, File::from(device)))?;
        Ok(())
    }

    /// Ends the thread; who waits is answered.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.sender = None;
        state.pending = 0;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|answer| answer());
    }

    /// Announces that a name at the top is about to change.
    pub(crate) fn announce(&self) {
        self.state().pending += 1;
    }

    /// The change did not happen.
    pub(crate) fn withdraw(&self) {
        self.done();
    }

    /// The change has been answered: the kernel is told as soon as it lets go of the directory.
    pub(crate) fn tell(&self, name: CString) {
        let sent = self.state().sender.as_ref().is_some_and(|sender| sender.send(name).is_ok());
        if !sent {
            self.done();
        }
    }

    /// Gives an answer now, or when the kernel has taken note of all names.
    pub(crate) fn when_clear(&self, answer: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.pending == 0 {
            drop(state);
            answer();
        } else {
            state.waiting.push(Box::new(answer));
        }
    }

    fn send(&self, names: &Receiver<CString>, mut device: File) {
        for name in names {
            let notice = expire(&name);
            let begun = Instant::now();
            // The kernel answers ENOENT when it does not know the name (any more).
            if let Err(error) = device.write(&notice)
                && error.raw_os_error() != Some(libc::ENOENT)
            {
                tracing::warn!(?name, %error, "the kernel was not told of a renamed entry");
            }
            if begun.elapsed() > Duration::from_secs(1) {
                tracing::warn!(?name, "the kernel was slow to take note of a renamed entry");
            }
            self.done();
        }
    }

    fn done(&self) {
        let mut state = self.state();
        state.pending = state.pending.saturating_sub(1);
        if state.pending == 0 {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(|answer| answer());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The protocol's notice that `name` at the top is to be looked up again; what is below it stays known.
fn expire(name: &CString) -> Vec<u8> {
    const INVALIDATE_ENTRY: i32 = 3;
    const EXPIRE_ONLY: u32 = 1;
    let name_length = name.as_bytes().len() as u32;
    let length = 32 + name_length + 1;
    let mut notice = Vec::with_capacity(length as usize);
    notice.extend(length.to_ne_bytes());
    notice.extend(INVALIDATE_ENTRY.to_ne_bytes());
    notice.extend(0u64.to_ne_bytes());
    notice.extend(TOP.to_ne_bytes());
    notice.extend(name_length.to_ne_bytes());
    notice.extend(EXPIRE_ONLY.to_ne_bytes());
    notice.extend(name.as_bytes_with_nul());
    notice
}
