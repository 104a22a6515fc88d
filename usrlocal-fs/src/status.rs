//! What goes on in a mount: for people, programs and Prometheus.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::metrics::{BOUNDS, Hits};
use crate::ops::extended::STATUS;

/// What an extended attribute holds.
const ROOM: usize = 64 * 1024;

/// What goes on in a mount.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The process that serves it.
    pub server: u32,
    /// Whether the kernel reads and writes open files by itself.
    pub passthrough: bool,
    /// Files and directories that the kernel knows.
    pub nodes: u64,
    /// Directories whose descriptor is kept.
    pub kept_descriptors: u64,
    /// Open files.
    pub open_files: u64,
    /// Open directories.
    pub open_directories: u64,
    /// Calls by operation.
    pub operations: Vec<OperationStatus>,
    /// The views in use, the busiest first.
    pub views: Vec<ViewStatus>,
    /// How many views are left out for want of room.
    #[serde(default)]
    pub more_views: u64,
    /// Caches.
    pub caches: Vec<CacheStatus>,
}

/// Calls of one operation.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationStatus {
    /// Its name.
    pub name: String,
    /// How many there were.
    pub calls: u64,
    /// How many failed; a name that is not there counts.
    pub failed: u64,
    /// Time in all, in nanoseconds.
    pub nanoseconds: u64,
    /// Calls by time: those up to 5, 20, 100, 500, 2,000, 20,000, 200,000 microseconds, and slower ones.
    pub classes: Vec<u64>,
}

/// One view in use.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewStatus {
    /// Whose it is; none for those without an entry.
    pub uid: Option<u32>,
    /// Calls by operation.
    pub calls: Vec<(String, u64)>,
}

/// How often something that was wanted was there already.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// Which cache.
    pub name: String,
    /// It was there.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
}

/// The status of the mount at `mount_point`; only root is told.
pub fn status(mount_point: &Path) -> Result<Status> {
    let mut room = vec![0; ROOM];
    let size =
        rustix::fs::getxattr(mount_point, STATUS, room.as_mut_slice()).map_err(
            |error| match error {
                rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOTCONN => {
                    Error::NotServed(mount_point.to_owned())
                }
                error if error.raw_os_error() == libc::ENODATA => {
                    Error::NotServed(mount_point.to_owned())
                }
                error => Error::path("read the status of", mount_point)(error),
            },
        )?;
    serde_json::from_slice(&room[..size]).map_err(|error| {
        Error::path("read the status of", mount_point)(std::io::Error::from(error))
    })
}

/// What goes on in the mount of `core`.
pub(crate) fn of_mount(core: &Core) -> Status {
    let metrics = &core.metrics;
    let operations = metrics.called().map(|(name, calls)| OperationStatus {
        name: name.into(),
        calls: calls.done.load(Relaxed),
        failed: calls.failed.load(Relaxed),
        nanoseconds: calls.nanoseconds.load(Relaxed),
        classes: calls.classes.iter().map(|class| class.load(Relaxed)).collect(),
    });
    let views = core.views.seats().into_iter().map(|seat| ViewStatus {
        uid: seat.top.view.owner,
        calls: seat.top.view.counts.called().map(|(name, count)| (name.into(), count)).collect(),
    });
    let cache = |name: &str, hits: &Hits| CacheStatus {
        name: name.into(),
        hits: hits.hits.load(Relaxed),
        misses: hits.misses.load(Relaxed),
    };
    Status {
        server: std::process::id(),
        passthrough: core.passthrough.load(Relaxed),
        nodes: core.nodes.len() as u64,
        kept_descriptors: core.nodes.kept_len() as u64,
        open_files: core.files.len() as u64,
        open_directories: core.directories.len() as u64,
        operations: operations.collect(),
        views: busiest_first(views.collect()),
        more_views: 0,
        caches: vec![
            cache("view", &metrics.views),
            cache("node", &metrics.nodes),
            cache("descriptor", &metrics.descriptors),
            cache("passthrough", &metrics.passthrough),
        ],
    }
}

fn busiest_first(mut views: Vec<ViewStatus>) -> Vec<ViewStatus> {
    let calls = |view: &ViewStatus| view.calls.iter().map(|(_, count)| *count).sum::<u64>();
    views.sort_by_cached_key(|view| std::cmp::Reverse(calls(view)));
    views
}

impl Status {
    /// As the value of an extended attribute, whose size is bounded: with as many views as there is room for.
    pub(crate) fn into_attribute(mut self) -> Vec<u8> {
        loop {
            let value = self.to_json().into_bytes();
            if value.len() <= ROOM || self.views.is_empty() {
                return value;
            }
            let fewer = self.views.len() / 2;
            self.more_views += (self.views.len() - fewer) as u64;
            self.views.truncate(fewer);
        }
    }

    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are always JSON")
    }

    /// As text that Prometheus collects. Each line carries the mount point.
    pub fn to_prometheus(&self, mount_point: &Path) -> String {
        let mount = mount_point
            .display()
            .to_string()
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let mut text = String::new();
        let gauges = [
            ("nodes", self.nodes),
            ("kept_descriptors", self.kept_descriptors),
            ("open_files", self.open_files),
            ("open_directories", self.open_directories),
            ("passthrough", u64::from(self.passthrough)),
        ];
        for (name, value) in gauges {
            line(&mut text, name, "gauge", [(format!("mount=\"{mount}\""), value)]);
        }
        let failed = self
            .operations
            .iter()
            .map(|op| (format!("mount=\"{mount}\",operation=\"{}\"", op.name), op.failed));
        line(&mut text, "failures_total", "counter", failed);
        self.latencies(&mut text, &mount);
        let views = self.views.iter().flat_map(|view| {
            let uid = view.uid.map_or_else(|| "none".into(), |uid| uid.to_string());
            let labels = format!("mount=\"{mount}\",uid=\"{uid}\"");
            view.calls
                .iter()
                .map(move |(name, count)| (format!("{labels},operation=\"{name}\""), *count))
        });
        line(&mut text, "view_calls_total", "counter", views);
        for (name, value) in [("cache_hits_total", true), ("cache_misses_total", false)] {
            let caches = self.caches.iter().map(|cache| {
                let count = if value { cache.hits } else { cache.misses };
                (format!("mount=\"{mount}\",cache=\"{}\"", cache.name), count)
            });
            line(&mut text, name, "counter", caches);
        }
        text
    }

    fn latencies(&self, text: &mut String, mount: &str) {
        text.push_str("# TYPE usrlocal_fs_call_seconds histogram\n");
        for operation in &self.operations {
            let labels = format!("mount=\"{mount}\",operation=\"{}\"", operation.name);
            let mut sum = 0;
            for (index, count) in operation.classes.iter().enumerate() {
                sum += count;
                let bound = BOUNDS
                    .get(index)
                    .map_or("+Inf".into(), |bound| format!("{}", *bound as f64 / 1e6));
                let _ = writeln!(
                    text,
                    "usrlocal_fs_call_seconds_bucket{{{labels},le=\"{bound}\"}} {sum}"
                );
            }
            let seconds = operation.nanoseconds as f64 / 1e9;
            let _ = writeln!(text, "usrlocal_fs_call_seconds_sum{{{labels}}} {seconds}");
            let _ = writeln!(text, "usrlocal_fs_call_seconds_count{{{labels}}} {sum}");
        }
    }
}

fn line(
    text: &mut String,
    name: &str,
    kind: &str,
    values: impl IntoIterator<Item = (String, u64)>,
) {
    let _ = writeln!(text, "# TYPE usrlocal_fs_{name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "usrlocal_fs_{name}{{{labels}}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Operation;

    #[test]
    fn a_mount_with_many_busy_views_still_tells_its_status() {
        let names = || Operation::NAMES.iter().map(|name| (*name).to_owned());
        let operation = |name| OperationStatus {
            name,
            calls: u64::MAX,
            failed: u64::MAX,
            nanoseconds: u64::MAX,
            classes: vec![u64::MAX; BOUNDS.len() + 1],
        };
        let view = |uid| ViewStatus {
            uid: Some(uid),
            calls: names().map(|name| (name, u64::from(uid) << 30)).collect(),
        };
        let status = Status {
            server: 1,
            passthrough: true,
            nodes: u64::MAX,
            kept_descriptors: 1,
            open_files: 1,
            open_directories: 1,
            operations: names().map(operation).collect(),
            views: busiest_first((0..100).map(view).collect()),
            more_views: 0,
            caches: Vec::new(),
        };
        assert!(status.to_json().len() > ROOM);
        let value = status.clone().into_attribute();
        assert!(value.len() <= ROOM, "{}", value.len());
        let told: Status = serde_json::from_slice(&value).unwrap();
        assert_eq!(told.views.len() as u64 + told.more_views, 100);
        assert_eq!(told.views[0].uid, Some(99));
        assert_eq!(told.operations, status.operations);
    }
}
