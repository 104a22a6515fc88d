//! What programs have open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::BackingId;
use rustix::io::{Errno, Result};

use crate::node::Node;
use crate::os::listing::Listing;

const SHARDS: usize = 16;

/// Open files or directories by the number that the kernel has for each.
#[derive(Debug)]
pub(crate) struct Opened<T> {
    shards: [Mutex<HashMap<u64, Arc<T>>>; SHARDS],
    next: AtomicU64,
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), next: AtomicU64::new(1) }
    }
}

impl<T> Opened<T> {
    /// Gives a number to what was opened.
    pub(crate) fn add(&self, opened: T) -> u64 {
        let number = self.next.fetch_add(1, Relaxed);
        self.shard(number).insert(number, Arc::new(opened));
        number
    }

    /// What has this number.
    pub(crate) fn get(&self, number: u64) -> Result<Arc<T>> {
        self.shard(number).get(&number).cloned().ok_or(Errno::BADF)
    }

    /// Ends the number; what it stood for is closed when nobody works on it.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).remove(&number)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    fn shard(&self, number: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<T>>> {
        self.shards[(number as usize) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) node: Arc<Node>,
    /// What the kernel reads and writes by itself; without it, reads and writes come to us.
    pub(crate) backing: Option<Arc<BackingId>>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.backing.is_none() {
            let mut state = self.node.state();
            state.plain = state.plain.saturating_sub(1);
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    pub(crate) listing: Mutex<Listing>,
    pub(crate) node: Arc<Node>,
    /// Which its inode numbers are of.
    pub(crate) device: u64,
}
