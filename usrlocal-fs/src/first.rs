//! The names at the first level that the kernel was told, and of whose view each was.
//!
//! The kernel keeps them, with all that lies below, until somebody asks for the same name again. When a view is shown no more it
//! is asked to forget its names, so that nothing holds the tree.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::core::Core;
use crate::node::TOP;
use crate::os;

/// How often it is looked whose link is gone.
const TICK: Duration = Duration::from_millis(200);
/// How many names are remembered; when there are more, some trees stay held until their user looks again.
const MOST: usize = 65_536;

/// Names at the first level, and the index of the view that each was last found in.
#[derive(Debug, Default)]
pub(crate) struct FirstNames(Mutex<HashMap<CString, u16>>);

impl FirstNames {
    /// The kernel is told of `name` in the view `index`.
    pub(crate) fn told(&self, name: &CStr, index: u16) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get_mut(name) {
            *known = index;
            return;
        }
        if names.len() >= MOST {
            names.clear();
        }
        names.insert(name.to_owned(), index);
    }

    /// Takes out the names of some views.
    fn take(&self, gone: &[u16]) -> Vec<CString> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.extract_if(|_, index| gone.contains(index)).map(|(name, _)| name).collect()
    }
}

/// A thread that drops views whose links are gone or changed; ends with this.
#[derive(Debug)]
pub(crate) struct Sweeper {
    thread: JoinHandle<()>,
    /// The thread's end of it tells it when to end.
    running: Arc<()>,
}

impl Sweeper {
    /// Starts to sweep one mount.
    pub(crate) fn start(core: Arc<Core>, notifier: Notifier) -> std::io::Result<Self> {
        let running = Arc::new(());
        let alive = Arc::downgrade(&running);
        let sweep = move || {
            while alive.strong_count() > 0 {
                core.views.drop_changed();
                let gone = core.views.take_gone();
                if !gone.is_empty() {
                    core.nodes.let_go();
                    let indices: Vec<_> = gone.iter().map(|view| view.index).collect();
                    drop(gone);
                    forget(&core.first_names.take(&indices), &notifier);
                }
                thread::park_timeout(TICK);
            }
        };
        let thread = thread::Builder::new().name("usrlocal-fs-sweep".into()).spawn(sweep)?;
        Ok(Self { thread, running })
    }

    /// Ends it; not waited for, as it may be waiting for the kernel.
    pub(crate) fn end(self) {
        drop(self.running);
        self.thread.thread().unpark();
    }
}

fn forget(names: &[CString], notifier: &Notifier) {
    if !os::mount::FORGETS_NAMES {
        return;
    }
    for name in names {
        let name = OsStr::from_bytes(name.as_bytes());
        if let Err(error) = notifier.inval_entry(INodeNo(TOP), name) {
            tracing::debug!(%error, ?name, "the kernel did not forget a name");
        }
    }
}
