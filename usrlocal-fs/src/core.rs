//! Everything behind one mount: who sees what, what the kernel knows, what is open.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::io::{Errno, Result};

use crate::call::{Caller, Operation};
use crate::first::FirstNames;
use crate::meta::Meta;
use crate::metrics::Metrics;
use crate::node::{Node, TOP};
use crate::nodes::Nodes;
use crate::opened::{OpenDirectory, OpenFile, Opened};
use crate::os;
use crate::view::Views;

/// Everything behind one mount.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) views: Views,
    pub(crate) nodes: Nodes,
    pub(crate) first_names: FirstNames,
    pub(crate) files: Opened<OpenFile>,
    pub(crate) directories: Opened<OpenDirectory>,
    pub(crate) metrics: Metrics,
    /// How long names and attributes below the first level are good.
    pub(crate) remember: Duration,
    /// The attributes of the top directory, where they are the same for everybody.
    pub(crate) top: Option<Meta>,
    /// Whether open files are handed to the kernel; turned off when it first refuses.
    pub(crate) passthrough: AtomicBool,
}

/// One request at work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Core,
    pub(crate) caller: Caller,
    pub(crate) operation: Operation,
}

impl Call<'_> {
    /// The node that the caller means by `number`.
    pub(crate) fn node(&self, number: u64) -> Result<Arc<Node>> {
        let node = if number == TOP {
            self.core.views.of(self.caller, &self.core.metrics)?.top.clone()
        } else {
            let node = self.core.nodes.get(number)?;
            // A name that the kernel took from another user's view: let it look the whole path up again.
            if self.is_foreign(&node) {
                return Err(Errno::STALE);
            }
            node
        };
        node.view.counts.add(self.operation);
        Ok(node)
    }

    /// Whether the caller should not have met `node`. Root may come by a descriptor or a current directory that a user left it.
    fn is_foreign(&self, node: &Node) -> bool {
        let uid = self.caller.uid;
        uid != 0 && node.view.owner.is_some_and(|owner| owner != uid)
    }

    /// A descriptor to look at `node` or below it.
    pub(crate) fn descriptor(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        self.core.nodes.descriptor(node, &self.core.metrics)
    }

    /// Does `work` below `node`: with the caller's rights at the top, whose attributes the kernel cannot keep apart for
    /// several users, else with ours, as the kernel has checked the caller's.
    pub(crate) fn within<T>(&self, node: &Node, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        if node.is_top() { os::credentials::as_caller(self.caller, work) } else { work() }
    }

    /// How long a name in `directory` is good: at the top it is another one for the next caller.
    pub(crate) fn names_last(&self, directory: &Node) -> Duration {
        if directory.is_top() { Duration::ZERO } else { self.core.remember }
    }

    /// How long attributes of `node` are good.
    pub(crate) fn attributes_last(&self, node: &Node) -> Duration {
        self.names_last(node)
    }
}

/// A name from the kernel. It never sends one that leads elsewhere; if it did, it is refused.
pub(crate) fn entry_name(name: &OsStr) -> Result<CString> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    CString::new(bytes).map_err(|_| Errno::INVAL)
}
