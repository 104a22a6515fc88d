//! Making room: what may go, what stays and why.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{CacheError, ResultCache};
use crate::error::{StoreError, chain};
use crate::fault;
use crate::id::ResultId;
use crate::index::Entry;

/// When to stop deleting. Without any limit nothing is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcLimits {
    /// Delete until the results take at most this many bytes.
    pub max_size: Option<u64>,
    /// Delete until the store's volume has at least this many bytes free.
    pub min_free: Option<u64>,
    /// Delete what no build has used for this long.
    pub older_than: Option<Duration>,
    /// Keep results that a build has used within this time, and all caches, whatever else is wanted.
    pub spare: Option<Duration>,
}

/// What went, what stayed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct GcReport {
    /// What was deleted (or would be, in a dry run), with the bytes that freed.
    pub deleted: Vec<(ResultId, u64)>,
    /// What was kept, each with the reason.
    pub kept: Vec<(ResultId, String)>,
    /// What should have gone and would not, with the reason.
    pub failed: Vec<(ResultId, String)>,
    /// Caches that were deleted (or would be), with the bytes they took.
    pub caches: Vec<(String, u64)>,
    /// Bytes of trees that were kept for the next step and were deleted (or would be).
    pub warm: u64,
    /// Bytes of what was deleted before and is still there: kept trees of failed steps, or steps that run, share them.
    pub waiting: u64,
}

impl ResultCache {
    /// Deletes results that nothing stands on, the longest unused first, until the limits are met.
    ///
    /// First go the trees that are kept only to make the next step begin sooner, then what is kept of failed steps (trees and
    /// logs), then results, and caches after all of them. What a build uses stays. A dry run deletes nothing and tells the same.
    pub fn gc(&self, limits: &GcLimits, dry_run: bool) -> Result<GcReport, CacheError> {
        self.flush();
        let sizes = self.sizes()?;
        let mut caches = self.store().caches()?;
        let warm = self.store().drop_warm(true)?;
        let kept = caches.iter().map(|(_, size)| size).chain(sizes.values()).sum::<u64>();
        let held = self.store().held()?;
        let waiting = held.waiting_besides(&[]);
        let mut room = Room::new(limits, kept + warm + waiting, self.store().usage()?.free);
        let mut report = GcReport::default();
        if room.wanted() && warm > 0 {
            report.warm = if dry_run { warm } else { self.store().drop_warm(false)? };
            room.freed(report.warm);
        }
        let older_than =
            |age: Option<Duration>| age.map(|age| self.index.older_than(age)).transpose();
        let expired = older_than(limits.older_than)?.unwrap_or_default();
        let unused = older_than(limits.spare)?;
        let spared = |id: &ResultId| unused.as_ref().is_some_and(|unused| !unused.contains(id));
        let doomed = |room: &Room, id: &ResultId| room.wanted() || expired.contains(id);
        for id in self.failed_ids()? {
            if doomed(&room, &id) {
                let size = sizes.get(&id).copied().unwrap_or(0);
                self.delete_into(&mut report, &mut room, &id, size, dry_run)?;
            }
        }
        let gone: Vec<_> = report.deleted.iter().map(|(id, _)| id.clone()).collect();
        let gone: Vec<_> = gone.iter().collect();
        report.waiting = held.waiting_besides(&gone);
        room.freed(waiting - report.waiting);
        let held = held.besides(&gone);
        let mut plan = Plan::new(self.entries()?);
        // What frees nothing makes no room, and would only have to be built again.
        while let Some(id) = plan.longest_unused(|id| {
            let scarce = room.wanted() && !held.contains(&id);
            (expired.contains(id) || scarce) && !spared(id)
        }) {
            let size = sizes.get(&id).copied().filter(|_| !held.contains(&&id)).unwrap_or(0);
            let gone = self.delete_into(&mut report, &mut room, &id, size, dry_run)?;
            plan.done(&id, gone);
        }
        report.kept.extend(plan.kept(limits, &held));
        // From the end of the list, where the largest are: they make the most room.
        caches.sort_by_key(|(_, size)| *size);
        caches.retain(|_| limits.spare.is_none());
        while let Some((name, size)) = caches.pop().filter(|_| room.wanted()) {
            if !dry_run {
                self.store().delete_cache(name.as_ref())?;
            }
            room.freed(size);
            report.caches.push((name.to_string(), size));
        }
        Ok(report)
    }

    /// Deletes everything: results, kept trees and logs of failed steps, caches. What a build uses stays.
    pub fn clean(&self) -> Result<GcReport, CacheError> {
        let mut report = self.gc(&GcLimits { max_size: Some(0), ..GcLimits::default() }, false)?;
        for failure in self.failures()? {
            self.forget(&failure.id)?;
        }
        for (name, size) in self.store().caches()? {
            self.store().delete_cache(name.as_ref())?;
            report.caches.push((name.to_string(), size));
        }
        Ok(report)
    }

    /// Deletes a result that nothing stands on, or what is kept of a failed step; says whether there was either.
    pub fn delete(&self, id: &ResultId) -> Result<bool, CacheError> {
        self.nothing_stands_on(id)?;
        let failed = self.failures()?.iter().any(|failure| failure.id == *id);
        let deleted = self.store().delete(id)?;
        fault::point("delete-deleted");
        self.index.remove(id)?;
        fault::point("delete-indexed");
        self.remove_notes(id);
        Ok(deleted || failed)
    }

    fn nothing_stands_on(&self, id: &ResultId) -> Result<(), CacheError> {
        let children: Vec<_> = self
            .entries()?
            .into_iter()
            .filter(|entry| entry.parent.as_ref() == Some(id))
            .map(|entry| entry.id)
            .collect();
        if children.is_empty() {
            return Ok(());
        }
        Err(CacheError::HasChildren { id: id.clone(), children })
    }

    /// What deleting a result would take with it, in order (itself alone unless `recursive`), each with the bytes that it frees: none
    /// that a kept tree or a step that runs still shares.
    pub fn would_delete(
        &self,
        id: &ResultId,
        recursive: bool,
    ) -> Result<Vec<(ResultId, u64)>, CacheError> {
        if !recursive {
            self.nothing_stands_on(id)?;
        }
        let doomed = self.index.with_descendants(id)?;
        let (sizes, held) = (self.sizes()?, self.store().held()?);
        let held = held.besides(&doomed.iter().collect::<Vec<_>>());
        let free = |id: &&ResultId| !held.contains(id);
        let size = |id: &ResultId| Some(id).filter(free).and_then(|id| sizes.get(id)).copied();
        let size = |id: &ResultId| size(id).unwrap_or(0);
        Ok(doomed.into_iter().map(|id| (id.clone(), size(&id))).collect())
    }

    /// Deletes a result with everything that stands on it; gives what went, in order.
    pub fn delete_tree(&self, id: &ResultId) -> Result<Vec<ResultId>, CacheError> {
        let doomed = self.index.with_descendants(id)?;
        for id in &doomed {
            self.delete(id)?;
        }
        Ok(doomed)
    }

    /// Ids of which there is no result but a log or a tree of a failure, the longest ago first.
    fn failed_ids(&self) -> Result<Vec<ResultId>, CacheError> {
        let results: HashSet<_> = self.store().results()?.into_iter().collect();
        let mut ids: Vec<_> =
            self.failures()?.into_iter().rev().map(|failure| failure.id).collect();
        let unknown: Vec<_> =
            self.store().kept_ids()?.into_iter().filter(|id| !ids.contains(id)).collect();
        ids.extend(unknown);
        ids.retain(|id| !results.contains(id));
        Ok(ids)
    }

    /// Bytes of every result and of what is kept of failed steps.
    fn sizes(&self) -> Result<HashMap<ResultId, u64>, CacheError> {
        let mut sizes = HashMap::new();
        let ids = self.store().results()?.into_iter().chain(self.store().kept_ids()?);
        for id in ids.collect::<HashSet<_>>() {
            match self.store().size(&id) {
                // It went while we were looking.
                Err(StoreError::Missing(_)) => {}
                size => drop(sizes.insert(id, size?)),
            }
        }
        for failure in self.failures()? {
            let log = std::fs::metadata(&failure.log).map_or(0, |log| log.len());
            *sizes.entry(failure.id).or_insert(0) += log;
        }
        Ok(sizes)
    }

    /// Deletes one result and enters that in the report; says whether it has gone.
    fn delete_into(
        &self,
        report: &mut GcReport,
        room: &mut Room,
        id: &ResultId,
        size: u64,
        dry_run: bool,
    ) -> Result<bool, CacheError> {
        if !dry_run {
            match self.store().delete(id) {
                Ok(_) => {}
                Err(StoreError::InUse(_)) => {
                    report.kept.push((id.clone(), "a build uses it".to_owned()));
                    return Ok(false);
                }
                Err(error) => {
                    report.failed.push((id.clone(), chain(&error)));
                    return Ok(false);
                }
            }
            self.forget(id)?;
        }
        room.freed(size);
        report.deleted.push((id.clone(), size));
        Ok(true)
    }
}

/// How much room there is, and how much is wanted.
struct Room {
    limits: GcLimits,
    size: u64,
    free: u64,
}

impl Room {
    fn new(limits: &GcLimits, size: u64, free: u64) -> Self {
        Self { limits: *limits, size, free }
    }

    fn wanted(&self) -> bool {
        self.limits.max_size.is_some_and(|max| self.size > max)
            || self.limits.min_free.is_some_and(|min| self.free < min)
    }

    fn freed(&mut self, bytes: u64) {
        self.size = self.size.saturating_sub(bytes);
        self.free = self.free.saturating_add(bytes);
    }
}

/// The results that are left while a collection goes on, and what stands on what.
struct Plan {
    /// The last used first.
    entries: Vec<Entry>,
    children: HashMap<ResultId, u64>,
    /// Those that would not go; the report tells about them elsewhere.
    stuck: Vec<ResultId>,
}

impl Plan {
    fn new(entries: Vec<Entry>) -> Self {
        let mut children = HashMap::new();
        for parent in entries.iter().filter_map(|entry| entry.parent.clone()) {
            *children.entry(parent).or_insert(0) += 1;
        }
        Self { entries, children, stuck: Vec::new() }
    }

    fn longest_unused(&self, doomed: impl Fn(&ResultId) -> bool) -> Option<ResultId> {
        let free = |entry: &&Entry| {
            !self.stuck.contains(&entry.id) && !self.stands_under(&entry.id) && doomed(&entry.id)
        };
        self.entries.iter().rev().find(free).map(|entry| entry.id.clone())
    }

    fn stands_under(&self, id: &ResultId) -> bool {
        self.children.get(id).is_some_and(|children| *children > 0)
    }

    fn done(&mut self, id: &ResultId, gone: bool) {
        if !gone {
            self.stuck.push(id.clone());
            return;
        }
        if let Some(at) = self.entries.iter().position(|entry| entry.id == *id)
            && let Some(parent) = self.entries.remove(at).parent
            && let Some(children) = self.children.get_mut(&parent)
        {
            *children -= 1;
        }
    }

    fn kept(self, limits: &GcLimits, held: &[&ResultId]) -> Vec<(ResultId, String)> {
        let reason = |entry: &Entry| {
            if let Some(child) =
                self.entries.iter().find(|other| other.parent.as_ref() == Some(&entry.id))
            {
                format!("{} stands on it", child.id.short())
            } else if *limits == GcLimits::default() {
                "no limit was given".to_owned()
            } else if held.contains(&&entry.id) {
                "a kept tree or a running step shares its room, so deleting it frees none"
                    .to_owned()
            } else if limits.spare.is_some() {
                format!("last used {}, which is lately, or the limits are met", entry.used)
            } else {
                format!("last used {}, and the limits are met", entry.used)
            }
        };
        let left = self.entries.iter().filter(|entry| !self.stuck.contains(&entry.id));
        left.map(|entry| (entry.id.clone(), reason(entry))).collect()
    }
}
