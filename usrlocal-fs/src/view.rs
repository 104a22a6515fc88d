//! What one user sees at one mount point.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::call::Caller;
use crate::config::{MountPoint, Otherwise};
use crate::metrics::{Counts, Metrics};
use crate::node::Node;
use crate::os;
use crate::os::handle::Anchors;
use crate::scoreboard::{Link, Scoreboard};
use crate::way::{Goal, Way};

/// One user's tree for as long as its link stands. Every view has nodes of its own.
#[derive(Debug)]
pub(crate) struct View {
    /// Part of the number of each of its nodes; never that of another view that has nodes.
    pub(crate) index: u16,
    /// Whose it is; a view of those without an entry is nobody's.
    pub(crate) owner: Option<u32>,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Its top directory. Holding it open keeps its inode number from being given to another.
    pub(crate) top: OwnedFd,
    pub(crate) anchors: Anchors,
    pub(crate) counts: Counts,
    gone: AtomicBool,
    indices: Arc<Indices>,
}

impl View {
    /// Whether its user is shown nothing any more: what it holds open is let go of.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.indices.give_back(self.index);
    }
}

/// A view in use, and the node of its top directory.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) top: Arc<Node>,
    link: Option<Link>,
    /// Where the top directory was found; none for those without an entry.
    found: Option<Way>,
}

/// The numbers of views.
#[derive(Debug, Default)]
struct Indices {
    last: AtomicU16,
    free: Mutex<Vec<u16>>,
}

impl Indices {
    fn take(&self) -> Result<u16> {
        if let Some(index) = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(index);
        }
        // Node numbers are to stay positive where they are read as signed.
        let next = |last: u16| (last < 0x7fff).then_some(last + 1);
        match self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) => Ok(last + 1),
            Err(_) => Err(Errno::NFILE),
        }
    }

    fn give_back(&self, index: u16) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(index);
    }
}

/// Who sees what at one mount point.
#[derive(Debug)]
pub(crate) struct Views {
    scoreboard: Arc<Scoreboard>,
    subdirectory: Arc<Path>,
    /// What a tree must not lie below, lest its own server wait for itself.
    mounts: Arc<[PathBuf]>,
    seats: RwLock<HashMap<u32, Arc<Seat>>>,
    /// The links whose trees were refused, each of which is told once.
    refused: Mutex<HashMap<u32, Link>>,
    otherwise: Option<Arc<Seat>>,
    /// Views that are shown no more and whose names the kernel may still have.
    gone: Mutex<Vec<Arc<View>>>,
    indices: Arc<Indices>,
}

impl Views {
    /// Prepares the views of `point`. `underneath` is the directory that was there before the mount.
    pub(crate) fn new(
        scoreboard: Arc<Scoreboard>,
        point: &MountPoint,
        mounts: Vec<PathBuf>,
        underneath: OwnedFd,
    ) -> Result<Self> {
        let mut views = Self {
            scoreboard,
            subdirectory: point.subdirectory.as_path().into(),
            mounts: mounts.into(),
            seats: RwLock::default(),
            refused: Mutex::default(),
            otherwise: None,
            gone: Mutex::default(),
            indices: Arc::default(),
        };
        let top = match &point.otherwise {
            Otherwise::Underneath => Some(underneath),
            Otherwise::Directory(path) => Some(open_directory(path)?),
            Otherwise::Nothing => None,
        };
        views.otherwise = top.map(|top| views.seat(top, None, None, None)).transpose()?;
        Ok(views)
    }

    /// What `caller` sees now.
    pub(crate) fn of(&self, caller: Caller, metrics: &Metrics) -> Result<Arc<Seat>> {
        let uid = caller.uid;
        let Some(link) = self.scoreboard.link(uid)? else {
            self.drop_seat(uid);
            return self.otherwise.clone().ok_or(Errno::NOENT);
        };
        let known = self.seats.read().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned();
        let current = known.filter(|seat| seat.link == Some(link) && seat.stands());
        metrics.views.add(current.is_some());
        match current {
            Some(seat) => Ok(seat),
            None => self.take_seat(caller, link),
        }
    }

    /// Forgets what is known of the tree of `uid`: its next access sees the tree with new nodes.
    pub(crate) fn drop_seat(&self, uid: u32) {
        let known = self.seats.read().unwrap_or_else(PoisonError::into_inner).contains_key(&uid);
        if known {
            let seat = self.seats.write().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            self.is_gone(seat);
        }
    }

    /// Drops the views of users whose links are gone or others by now.
    pub(crate) fn drop_changed(&self) {
        for uid in self.owners() {
            // Looked at with the seats in hand, so that nobody takes a seat by a newer link meanwhile.
            let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
            let Some(seat) = seats.get(&uid) else { continue };
            if self.scoreboard.link(uid).is_ok_and(|link| link != seat.link) {
                let seat = seats.remove(&uid);
                drop(seats);
                self.is_gone(seat);
            }
        }
    }

    /// The views that were dropped since this was last asked.
    pub(crate) fn take_gone(&self) -> Vec<Arc<View>> {
        std::mem::take(&mut self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_gone(&self, seat: Option<Arc<Seat>>) {
        let Some(view) = seat.map(|seat| seat.top.view.clone()) else { return };
        // Who is shown another tree may be at work in this one.
        let link = view.owner.map(|uid| self.scoreboard.link(uid));
        if matches!(link, Some(Ok(None))) {
            view.gone.store(true, Ordering::SeqCst);
            view.anchors.let_go();
        }
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(view);
    }

    /// The users that have a view now.
    pub(crate) fn owners(&self) -> Vec<u32> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        let mut owners: Vec<_> = seats.keys().copied().collect();
        owners.sort_unstable();
        owners
    }

    /// Whether the mount point may be another directory for the next caller.
    pub(crate) fn differ(&self) -> bool {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        seats.len() + usize::from(self.otherwise.is_some()) > 1
    }

    /// The node of what those without an entry see.
    pub(crate) fn otherwise(&self) -> Option<&Node> {
        self.otherwise.as_ref().map(|seat| &*seat.top)
    }

    /// The views in use now, that of the others last.
    pub(crate) fn seats(&self) -> Vec<Arc<Seat>> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        seats.values().cloned().chain(self.otherwise.clone()).collect()
    }

    fn take_seat(&self, caller: Caller, link: Link) -> Result<Arc<Seat>> {
        let uid = caller.uid;
        let goal = Goal {
            tree: self.scoreboard.tree(uid)?,
            below: self.subdirectory.clone(),
            mounts: self.mounts.clone(),
        };
        let (way, top) = Way::find(goal, caller).map_err(|refused| {
            let mut told = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(uid, link) != Some(link) {
                tracing::warn!(uid, error = %refused.error, why = refused.why, "a tree is not shown");
            }
            refused.error
        })?;
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have come first: one user has one view.
        if let Some(seat) = seats.get(&uid).filter(|seat| seat.link == Some(link) && seat.stands())
        {
            return Ok(seat.clone());
        }
        let seat = self.seat(top, Some(uid), Some(link), Some(way))?;
        let before = seats.insert(uid, seat.clone());
        drop(seats);
        self.is_gone(before);
        Ok(seat)
    }

    fn seat(
        &self,
        top: OwnedFd,
        owner: Option<u32>,
        link: Option<Link>,
        found: Option<Way>,
    ) -> Result<Arc<Seat>> {
        let meta = os::meta::of_fd(top.as_fd())?;
        let view = Arc::new(View {
            index: self.indices.take()?,
            owner,
            device: meta.device,
            inode: meta.inode,
            anchors: Anchors::new(top.as_fd()),
            top,
            counts: Counts::default(),
            gone: AtomicBool::new(false),
            indices: self.indices.clone(),
        });
        Ok(Arc::new(Seat { top: Arc::new(Node::top(view)?), link, found }))
    }
}

impl Seat {
    /// Whether its directory is still the one at its path: trees are switched by renaming, too.
    fn stands(&self) -> bool {
        let view = &self.top.view;
        self.found.as_ref().and_then(|way| way.leads_to().ok()) == Some((view.device, view.inode))
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
