//! Proves index and store against each other.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::lock::IdLock;
use super::meta::Meta;
use super::{CacheError, ResultCache, failed};
use crate::contracts::{Snapshot, Store};
use crate::error::StoreError;
pub use crate::finding::{Finding, Repair};
use crate::id::ResultId;
use crate::index::{Entry, Index};

/// Name of the file in a result's directory that holds the digest of its tree.
const DIGEST: &str = "obuild-digest";

/// Where the digest is of a result that nobody can write to.
pub(super) fn digest_of(state: &Path, id: &ResultId) -> PathBuf {
    state.join("obuild-digests").join(id.as_str())
}

/// How long a row and its result may differ while somebody is at work on both.
const MOMENT: Duration = Duration::from_millis(200);

/// Gives the digest of the tree at a path.
pub type Digest<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// How far a check goes.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// Puts right what can be.
    pub repair: bool,
    /// Reads every byte: compares each result with the digest that the first such check took of it.
    pub digest: Option<Digest<'a>>,
}

/// What a check has looked at and found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Checkup {
    /// How many results it has looked at.
    pub results: usize,
    /// Of how many it has taken a digest for the first time.
    pub digested: usize,
    /// What it has found.
    pub findings: Vec<Finding>,
}

struct Check<'a> {
    store: &'a dyn Store,
    index: &'a Index,
    options: CheckOptions<'a>,
    checkup: Checkup,
}

impl ResultCache {
    /// Checks a store and its index, which it does not open as [`ResultCache::open`] does: that would put in order what is
    /// to be reported.
    pub fn check(store: &Arc<dyn Store>, options: CheckOptions<'_>) -> Result<Checkup, CacheError> {
        let state = store.state_dir();
        let mut damage = None;
        let mut index = Index::open_sound(state)?;
        if index.is_none() {
            let repair = options.repair.then_some(|| ResultCache::open(store.clone()).map(drop));
            let how = "set it aside and make it anew from the results";
            damage = Some(Finding::new(None, "the index is damaged", how, repair));
            index = if options.repair { Index::open_sound(state)? } else { None };
        }
        let mut findings: Vec<_> = damage.into_iter().collect();
        findings.extend(store.check(options.repair, options.digest.is_some())?);
        let checkup = Checkup { findings, ..Checkup::default() };
        let Some(index) = index else { return Ok(checkup) };
        let mut check = Check { store: &**store, index: &index, options, checkup };
        check.both_directions()?;
        check.references()?;
        for id in store.results()? {
            check.result(&id)?;
        }
        check.failures()?;
        check.locks();
        Ok(check.checkup)
    }
}

impl Check<'_> {
    fn found<E: Error + 'static>(
        &mut self,
        id: Option<&ResultId>,
        what: impl Into<String>,
        how: &str,
        repair: impl FnOnce() -> Result<(), E>,
    ) {
        let repair = self.options.repair.then_some(repair);
        self.checkup.findings.push(Finding::new(id, what, how, repair));
    }

    /// Every row has a result, and every result a row.
    fn both_directions(&mut self) -> Result<(), CacheError> {
        let (store, index) = (self.store, self.index);
        let differ = || -> Result<HashSet<ResultId>, CacheError> {
            let there: HashSet<_> = store.results()?.into_iter().collect();
            let known: HashSet<_> = index.ids()?.into_iter().collect();
            Ok(there.symmetric_difference(&known).cloned().collect())
        };
        let mut different = differ()?;
        if !different.is_empty() {
            // Whoever commits or deletes a result right now does the one after the other.
            std::thread::sleep(MOMENT);
            different = different.intersection(&differ()?).cloned().collect();
        }
        for id in different {
            match store.result(&id)? {
                Some(_) if IdLock::is_held(store.state_dir(), &id) => {}
                Some(result) => {
                    let meta = Meta::read(result.dir()).unwrap_or_default();
                    self.found(Some(&id), "the index does not know it", "enter it", || {
                        index.add(&id, &meta)
                    });
                }
                None => {
                    self.found(Some(&id), "the store does not have it", "remove its row", || {
                        index.remove(&id)
                    });
                }
            }
        }
        Ok(())
    }

    /// What stands on what is counted right, and agrees with what the results say themselves.
    fn references(&mut self) -> Result<(), CacheError> {
        let (store, index) = (self.store, self.index);
        let entries = index.entries()?;
        let mut counts: HashMap<&ResultId, u64> = HashMap::new();
        entries
            .iter()
            .filter_map(|e| e.parent.as_ref())
            .for_each(|id| *counts.entry(id).or_default() += 1);
        let known: HashSet<_> = entries.iter().map(|entry| &entry.id).collect();
        for entry in &entries {
            let id = Some(&entry.id);
            if let Some(parent) = entry.parent.as_ref().filter(|parent| !known.contains(parent)) {
                let what =
                    format!("it stands on {}, which the index does not know", parent.short());
                self.found(id, what, "forget what it stands on", || index.recount());
            }
            let said = store.result(&entry.id)?.and_then(|result| Meta::read(result.dir()));
            let parent = said.as_ref().and_then(|meta| meta.parent.as_ref());
            if let (Some(meta), Some(parent)) = (&said, parent.filter(|id| known.contains(id)))
                && entry.parent.as_ref() != Some(parent)
            {
                let what = format!("it stands on {}, and the index says otherwise", parent.short());
                self.found(id, what, "enter what it says itself", || {
                    index.add(&entry.id, meta).and_then(|()| index.recount())
                });
            }
            let count = counts.get(&entry.id).copied().unwrap_or(0);
            if count != entry.children {
                let what =
                    format!("{count} results stand on it, and the index says {}", entry.children);
                self.found(id, what, "count again", || index.recount());
            }
        }
        Ok(())
    }

    /// A result has all its parts.
    fn result(&mut self, id: &ResultId) -> Result<(), CacheError> {
        let Some(result) = self.store.result(id)? else { return Ok(()) };
        self.checkup.results += 1;
        let meta = Meta::read(result.dir());
        let has = |name: &str| fs::symlink_metadata(result.dir().join(name)).is_ok();
        if meta.is_none() && has(super::meta::FILE) {
            let entry = self.index.entry(id)?;
            let dir = result.dir();
            self.found(
                Some(id),
                "what it knows of itself cannot be read",
                "write it anew from the index",
                || entry.as_ref().map_or(Ok(()), |entry| of_entry(entry).write(dir)),
            );
        }
        if meta.is_some() && !has("log") {
            let log = result.log();
            self.found(Some(id), "its log is missing", "give it an empty one", || {
                fs::write(log, "")
            });
        }
        if meta.is_some_and(|meta| meta.base.is_some()) && !has("env") {
            return self.spoilt(id, result, "the environment of its image is missing");
        }
        let state = self.store.state_dir();
        match self.options.digest.map(|digest| compare(digest, &result, state)) {
            None | Some(Ok(Compared::Same)) => Ok(()),
            Some(Ok(Compared::Taken)) => {
                self.checkup.digested += 1;
                Ok(())
            }
            Some(Ok(Compared::Different)) => self.spoilt(
                id,
                result,
                "its tree does not hold what it held when its digest was taken",
            ),
            Some(Err(error)) => {
                self.spoilt(id, result, &format!("its tree cannot be read: {error}"))
            }
        }
    }

    /// A result that nothing should be built on: it goes, with what stands on it, and will be built again.
    fn spoilt(&mut self, id: &ResultId, pin: Snapshot, what: &str) -> Result<(), CacheError> {
        drop(pin);
        let (store, index) = (self.store, self.index);
        let doomed = index.with_descendants(id)?;
        self.found(
            Some(id),
            what,
            "delete it and what stands on it",
            || -> Result<(), CacheError> {
                for one in doomed.iter().chain([id]) {
                    match store.delete(one) {
                        Err(StoreError::Missing(_)) => {}
                        deleted => drop(deleted?),
                    }
                    index.remove(one)?;
                }
                Ok(())
            },
        );
        Ok(())
    }

    /// What is remembered of failed steps is there, and nothing else.
    fn failures(&mut self) -> Result<(), CacheError> {
        let (store, state) = (self.store, self.store.state_dir());
        let known = self.index.failures(|id| failed::log_of(state, id))?;
        for failure in known.iter().filter(|failure| failure.kept) {
            if store.kept(&failure.id)?.is_none() {
                let id = &failure.id;
                let index = self.index;
                self.found(
                    Some(id),
                    "the tree of its failure is gone",
                    "say that it is not kept",
                    || index.forget_kept(id),
                );
            }
        }
        let known: HashSet<_> = known.iter().map(|failure| &failure.id).collect();
        for id in store.kept_ids()?.into_iter().filter(|id| !known.contains(id)) {
            // Without a row it would be found by nobody but `gc`.
            let index = self.index;
            self.found(
                Some(&id),
                "a failed tree is kept that the index does not know",
                "enter it",
                || failed::enter_kept(store, index, &id),
            );
        }
        Ok(())
    }

    /// Nobody who is dead still seems to build.
    fn locks(&mut self) {
        let state = self.store.state_dir();
        let dead = IdLock::dead(state);
        if !dead.is_empty() {
            let what = format!("{} locks of processes that were killed", dead.len());
            self.found(None, what, "remove them", || IdLock::sweep(state));
        }
    }
}

fn of_entry(entry: &Entry) -> Meta {
    let elapsed = entry.elapsed.unwrap_or_default().as_millis();
    Meta {
        parent: entry.parent.clone(),
        heading: entry.heading.clone().unwrap_or_default(),
        elapsed_ms: elapsed.try_into().unwrap_or(u32::MAX),
        ..Meta::default()
    }
}

enum Compared {
    Same,
    Different,
    Taken,
}

/// Compares a result with its digest, or takes that. Where results are snapshots, which nobody can change, it lies in `state`.
fn compare(digest: Digest<'_>, result: &Snapshot, state: &Path) -> io::Result<Compared> {
    let now = digest(&result.rootfs())?;
    let (path, aside) = (result.dir().join(DIGEST), digest_of(state, result.id()));
    match fs::read_to_string(&path) {
        Ok(then) if then.trim() == now => return Ok(Compared::Same),
        Ok(then) if !then.is_empty() => return Ok(Compared::Different),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::write(path, format!("{now}\n")) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {}
        written => return written.map(|()| Compared::Taken),
    }
    aside.parent().map_or(Ok(()), fs::create_dir_all)?;
    // Another result of the same id was made at another time.
    let made = fs::metadata(result.dir())?.modified()?;
    let made = made.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let then = fs::read_to_string(&aside).unwrap_or_default();
    match then.trim().split_once(' ') {
        Some((then, of)) if of == made.to_string() => {
            Ok(if then == now { Compared::Same } else { Compared::Different })
        }
        _ => fs::write(aside, format!("{now} {made}\n")).map(|()| Compared::Taken),
    }
}
