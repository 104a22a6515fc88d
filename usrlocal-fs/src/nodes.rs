//! The nodes that the kernel knows, each counted as often as the kernel was told of it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::{Errno, Result};

use crate::meta::Meta;
use crate::metrics::Metrics;
use crate::node::{Node, TOP};
use crate::os::handle::Handle;
use crate::view::View;

const SHARDS: usize = 32;
const INODE_BITS: u32 = 48;
/// Set in the numbers of files whose inode number does not fit, or that lie on another device than their view.
const MADE_UP: u64 = 1 << (INODE_BITS - 1);

type Shard = HashMap<u64, (Arc<Node>, u64)>;

/// What a made-up number stands for: a view, a device and an inode number.
type File = (u16, u64, u64);

/// Made-up numbers of files that have a node, both ways.
#[derive(Debug, Default)]
struct MadeUp {
    numbers: HashMap<File, u64>,
    files: HashMap<u64, File>,
}

/// All nodes of one mount.
#[derive(Debug)]
pub(crate) struct Nodes {
    shards: [Mutex<Shard>; SHARDS],
    made_up: Mutex<MadeUp>,
    next_made_up: AtomicU64,
    /// Directories with a kept descriptor, the longest kept first.
    kept: Mutex<VecDeque<Weak<Node>>>,
    most_kept: usize,
}

impl Nodes {
    /// No nodes yet; keeps descriptors of up to `most_kept` directories.
    pub(crate) fn new(most_kept: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            made_up: Mutex::default(),
            next_made_up: AtomicU64::new(0),
            kept: Mutex::default(),
            most_kept,
        }
    }

    /// The node of this number.
    pub(crate) fn get(&self, number: u64) -> Result<Arc<Node>> {
        self.shard(number).get(&number).map(|(node, _)| node.clone()).ok_or(Errno::STALE)
    }

    /// The node of a file that was looked up, counted once more. `handle` is asked for when it is new.
    pub(crate) fn enter(
        &self,
        view: &Arc<View>,
        meta: &Meta,
        metrics: &Metrics,
        handle: impl Fn() -> Result<Handle>,
    ) -> Result<Arc<Node>> {
        let number = self.number(view, meta.device, meta.inode);
        if number == TOP {
            // A view's top directory inside itself: only a mount could do that.
            return Err(Errno::LOOP);
        }
        if let Some((node, count)) = self.shard(number).get_mut(&number)
            && node.is(meta, &handle)?
        {
            *count += 1;
            metrics.nodes.add(true);
            return Ok(node.clone());
        }
        let handle = handle().inspect_err(|_| self.unused(number))?;
        let fresh = Arc::new(Node::new(view.clone(), number, meta, handle));
        metrics.nodes.add(false);
        let mut shard = self.shard(number);
        let (node, count) = shard.entry(number).or_insert_with(|| (fresh.clone(), 0));
        if !node.same(&fresh) {
            // The number has passed to a new file; what the kernel still counts of the old one it will forget here.
            *node = fresh;
        }
        *count += 1;
        Ok(node.clone())
    }

    /// The kernel forgets `count` of what it was told.
    pub(crate) fn forget(&self, number: u64, count: u64) {
        let mut shard = self.shard(number);
        let Some((_, known)) = shard.get_mut(&number) else { return };
        *known = known.saturating_sub(count);
        if *known == 0 {
            let gone = shard.remove(&number);
            drop(shard);
            self.unused(number);
            // It may be the last that holds the nodes above it.
            drop(gone);
        }
    }

    /// Forgets what a made-up number stands for, unless it has a node.
    fn unused(&self, number: u64) {
        if number & MADE_UP == 0 || self.shard(number).contains_key(&number) {
            return;
        }
        let mut made_up = lock(&self.made_up);
        if let Some(file) = made_up.files.remove(&number) {
            made_up.numbers.remove(&file);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// How many directories have a kept descriptor.
    pub(crate) fn kept_len(&self) -> usize {
        lock(&self.kept).len()
    }

    /// A descriptor to look at a node or below it; that of a directory is kept for the next time.
    pub(crate) fn descriptor(&self, node: &Arc<Node>, metrics: &Metrics) -> Result<Arc<OwnedFd>> {
        let kept = node.kept();
        let directory = node.kind == fuser::FileType::Directory;
        if directory {
            metrics.descriptors.add(kept.is_some());
        }
        if let Some(fd) = kept {
            return Ok(fd);
        }
        let fd = node.reach()?;
        if directory {
            self.keep(node, &fd);
        }
        Ok(fd)
    }

    fn keep(&self, node: &Arc<Node>, fd: &Arc<OwnedFd>) {
        if node.state().kept.replace(fd.clone()).is_some() {
            return;
        }
        // Looked at after it was put there, or what lets go of it might have come just before.
        if node.view.is_gone() {
            node.state().kept = None;
            return;
        }
        let mut kept = lock(&self.kept);
        kept.push_back(Arc::downgrade(node));
        let dropped = if kept.len() > self.most_kept { kept.pop_front() } else { None };
        drop(kept);
        if let Some(old) = dropped.and_then(|old| old.upgrade()) {
            old.state().kept = None;
        }
    }

    /// Closes what is kept of views that are gone.
    pub(crate) fn let_go(&self) {
        let mut gone = Vec::new();
        lock(&self.kept).retain(|node| match node.upgrade() {
            Some(node) if node.view.is_gone() => {
                gone.push(node);
                false
            }
            _ => true,
        });
        gone.iter().for_each(|node| node.state().kept = None);
    }

    /// The number of a file in a view: its inode number, so that it stays the same when the kernel forgets and asks again.
    fn number(&self, view: &View, device: u64, inode: u64) -> u64 {
        if let Some(number) = own_number(view, device, inode) {
            return number;
        }
        let file = (view.index, device, inode);
        let mut made_up = lock(&self.made_up);
        if let Some(number) = made_up.numbers.get(&file) {
            return *number;
        }
        let next = self.next_made_up.fetch_add(1, Relaxed) & (MADE_UP - 1);
        let number = above(view) | MADE_UP | next;
        made_up.numbers.insert(file, number);
        made_up.files.insert(number, file);
        number
    }

    /// The number of a file that is only shown, not looked up: that of its node, if it needs one and there is none, any.
    pub(crate) fn known(&self, view: &View, device: u64, inode: u64) -> u64 {
        own_number(view, device, inode).unwrap_or_else(|| {
            let known = lock(&self.made_up).numbers.get(&(view.index, device, inode)).copied();
            known.unwrap_or(above(view) | MADE_UP | (inode & (MADE_UP - 1)))
        })
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(number as usize) % SHARDS])
    }
}

fn above(view: &View) -> u64 {
    u64::from(view.index) << INODE_BITS
}

/// The number of a file whose inode number is good for one.
fn own_number(view: &View, device: u64, inode: u64) -> Option<u64> {
    if (device, inode) == (view.device, view.inode) {
        return Some(TOP);
    }
    (device == view.device && inode < MADE_UP).then_some(above(view) | inode)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
