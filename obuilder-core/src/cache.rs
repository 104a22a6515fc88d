//! The result cache: the index, the sharing of steps in progress and pruning, over any store.
//!
//! [`ResultCache::build`] is the way in: it gives the result of a step from the cache, from someone who is building it
//! right now, or by building it. A result is what the store says it is; the index is only a view of it and follows.

pub mod meta;

mod elsewhere;
mod failed;
mod fsck;
mod lock;
mod prune;
pub mod reserve;
mod retire;
mod running;
mod steps;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::index::{Entry, Failure, IndexError};
pub use fsck::{CheckOptions, Checkup, Digest, Finding, Repair};
pub use prune::{GcLimits, GcReport};
pub use steps::{Client, StepFailure, StepRequest, Work, Workspace};

use crate::contracts::{Fingerprint, Reconciled, Store};
use crate::error::StoreError;
use crate::fault;
use crate::id::ResultId;
use crate::index::Index;
use meta::{Meta, Surroundings};
use running::Running;

/// Why the cache could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See [`IndexError`].
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What was given cannot be an id, not even a shortened one.
    #[error(
        "`{0}` is not an id: an id is made of 64 hexadecimal digits, of which the first few are enough"
    )]
    NotAnId(String),
    /// No result or failed step has this id.
    #[error("there is no result or failed step `{text}`")]
    UnknownId {
        /// What was asked for.
        text: String,
        /// The id that agrees with it longest, if any does at all.
        nearest: Option<ResultId>,
    },
    /// Several do.
    #[error("`{text}` is short for {} ids", matches.len())]
    AmbiguousId {
        /// What was asked for.
        text: String,
        /// The ids.
        matches: Vec<ResultId>,
    },
    /// Other results stand on it.
    #[error("result `{}` has {} results that stand on it", id.short(), children.len())]
    HasChildren {
        /// The result.
        id: ResultId,
        /// What stands on it.
        children: Vec<ResultId>,
    },
    /// A log cannot be read.
    #[error("failed to read the log `{path}`")]
    Log {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
}

/// What opening the cache put in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

/// The log of a result or of a failed step.
#[derive(Debug)]
pub struct LogSource {
    /// The log, open at its start.
    pub file: File,
    /// Whether the step failed.
    pub failed: bool,
}

/// Results, who is building them and what may go. Shared between threads; several processes may each have one on one store.
pub struct ResultCache {
    store: Arc<dyn Store>,
    index: Index,
    running: Mutex<HashMap<ResultId, Arc<Running>>>,
    used: Mutex<HashSet<ResultId>>,
}

impl ResultCache {
    /// Opens the cache for deleting, which must go on a full disk too: gives back the room that was kept for that.
    pub fn open_to_make_room(store: Arc<dyn Store>) -> Result<(Arc<Self>, Opened), CacheError> {
        if store.usage().is_ok_and(|usage| reserve::is_needed(usage.free)) {
            reserve::release(store.state_dir());
        }
        Self::open(store)
    }

    /// Opens the cache on a store: sweeps what killed processes left there and brings the index into line with it.
    pub fn open(store: Arc<dyn Store>) -> Result<(Arc<Self>, Opened), CacheError> {
        let (index, aside) = Index::open(store.state_dir())?;
        let cache = Self { store, index, running: Mutex::default(), used: Mutex::default() };
        let mut opened = Opened::default();
        fault::point("open-indexed");
        let known = cache.index.ids()?;
        let reconciled = cache.store.reconcile(&known)?;
        fault::point("open-swept");
        cache.adopt(&reconciled)?;
        for id in &reconciled.missing {
            cache.index.remove(id)?;
            cache.remove_notes(id);
        }
        cache.settle_failures()?;
        if !(reconciled.unknown.is_empty() && reconciled.missing.is_empty()) {
            cache.index.recount()?;
        }
        if let Some(aside) = aside {
            opened.notes.push(format!(
                "the index was damaged: it is set aside as `{}`, and a new one was made from the {} results in the store",
                aside.display(),
                reconciled.unknown.len()
            ));
        }
        lock::IdLock::sweep(cache.store.state_dir())
            .map_err(|source| StoreError::io("sweep the locks of killed processes", source))?;
        for what in reconciled.swept {
            tracing::info!("swept {what}");
        }
        tracing::debug!(
            adopted = reconciled.unknown.len(),
            lost = reconciled.missing.len(),
            "index in line with store"
        );
        if let Ok(usage) = cache.store.usage() {
            reserve::keep(cache.store.state_dir(), usage.free);
        }
        fault::point("open-ready");
        Ok((Arc::new(cache), opened))
    }

    /// Enters results that the store has and the index did not know. What OBuilder has made does not say what it stands on.
    fn adopt(&self, found: &Reconciled) -> Result<(), CacheError> {
        let mut metas = Vec::new();
        for id in &found.unknown {
            let Some(snapshot) = self.store.result(id)? else { continue };
            let mut meta = Meta::read(snapshot.dir()).unwrap_or_default();
            meta.parent = meta.parent.or_else(|| found.bases.get(id).cloned());
            metas.push((id, meta));
        }
        // Twice, because a result may come before the one it stands on, and a parent must be there to be named.
        for (id, meta) in metas.iter().chain(metas.iter().filter(|(_, meta)| meta.parent.is_some()))
        {
            self.index.add(id, meta)?;
        }
        Ok(())
    }

    /// The store below.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// All results, the last used first.
    pub fn entries(&self) -> Result<Vec<Entry>, CacheError> {
        Ok(self.index.entries()?)
    }

    /// One result, if there is one of this id.
    pub fn entry(&self, id: &ResultId) -> Result<Option<Entry>, CacheError> {
        Ok(self.index.entry(id)?)
    }

    /// The remembered failures of steps, the newest first.
    pub fn failures(&self) -> Result<Vec<Failure>, CacheError> {
        Ok(self.index.failures(|id| self.failed_log(id))?)
    }

    /// The id of a result or failed step that `text` is the beginning of.
    pub fn find(&self, text: &str) -> Result<ResultId, CacheError> {
        if text.is_empty()
            || text.len() > ResultId::LEN
            || !text.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(CacheError::NotAnId(text.to_owned()));
        }
        let wanted = text.to_ascii_lowercase();
        let mut ids = self.index.ids()?;
        ids.extend(self.failures()?.into_iter().map(|failure| failure.id));
        ids.sort();
        ids.dedup();
        let mut matches: Vec<_> =
            ids.iter().filter(|id| id.as_str().starts_with(&wanted)).cloned().collect();
        match matches.len() {
            1 => Ok(matches.remove(0)),
            0 => {
                Err(CacheError::UnknownId { text: text.to_owned(), nearest: nearest(&wanted, ids) })
            }
            _ => Err(CacheError::AmbiguousId { text: text.to_owned(), matches }),
        }
    }

    /// The log of a result, or of the last failure of a step.
    pub fn log(&self, id: &ResultId) -> Result<LogSource, CacheError> {
        let snapshot = self.store.result(id)?;
        let failed = snapshot.is_none();
        let path = snapshot.as_ref().map_or_else(|| self.failed_log(id), |snapshot| snapshot.log());
        match File::open(&path) {
            Ok(file) => Ok(LogSource { file, failed }),
            Err(source) => Err(CacheError::Log { path, source }),
        }
    }

    /// What the step of a result or of a kept failed tree ran in, where that is known.
    pub fn surroundings(&self, id: &ResultId) -> Result<Surroundings, CacheError> {
        let snapshot = match self.store.result(id)? {
            Some(snapshot) => Some(snapshot),
            None => self.store.kept(id)?,
        };
        let meta = snapshot.and_then(|snapshot| Meta::read(snapshot.dir()));
        Ok(meta.unwrap_or_default().surroundings)
    }

    /// Which image the base result `id` was imported from, where that is known.
    pub(crate) fn base_fingerprint(
        &self,
        id: &ResultId,
    ) -> Result<Option<Fingerprint>, IndexError> {
        self.index.base(id)
    }

    /// Remembers which image the base result `id` stands for.
    pub(crate) fn set_base_fingerprint(
        &self,
        id: &ResultId,
        name: &str,
        fingerprint: &Fingerprint,
    ) -> Result<(), IndexError> {
        self.index.set_base(id, name, fingerprint)
    }

    /// Marks a result as used; written to the index by the next [`ResultCache::flush`].
    pub(crate) fn touch(&self, id: &ResultId) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
    }

    /// Writes what was marked as used. A full disk does not matter here.
    pub(crate) fn flush(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if !used.is_empty()
            && let Err(error) = self.index.touch(&used)
        {
            tracing::warn!("failed to mark results as used: {error}");
        }
    }
}

impl Drop for ResultCache {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The id that shares the longest beginning with `text`, if any shares one.
fn nearest(text: &str, ids: Vec<ResultId>) -> Option<ResultId> {
    let shared =
        |id: &ResultId| id.as_str().bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    ids.into_iter().max_by_key(shared).filter(|id| shared(id) > 0)
}
