//! Points at which a test can have the process killed.
//!
//! Code that must leave nothing half-made passes [`point`] at each of its steps. Only with the feature `faults`, which no
//! program that is handed out has, does that do anything.

/// Points of what all stores share, so that a test can try them all.
#[cfg(feature = "faults")]
pub const POINTS: &[&str] = &[
    "open-indexed",
    "open-swept",
    "open-ready",
    "step-begun",
    "step-worked",
    "step-described",
    "step-committed",
    "index-adding",
    "step-indexed",
    "bury-log",
    "bury-indexed",
    "retire-deleted",
    "index-removing",
    "retire-indexed",
    "delete-deleted",
    "delete-indexed",
    "index-touching",
];

/// Those of the rsync store.
#[cfg(feature = "faults")]
pub const RSYNC_POINTS: &[&str] = &[
    "begin-made",
    "begin-filled",
    "warm-taken",
    "warm-brought",
    "ahead-linked",
    "lease-made",
    "lease-filled",
    "release-synced",
    "release-exchanged",
    "release-done",
    "commit-snapped",
    "commit-moved",
    "commit-shared",
    "commit-synced",
    "commit-renamed",
    "commit-durable",
    "warm-indexed",
    "warm-kept",
    "keep-replaced",
    "keep-moved",
    "discard-removed",
    "delete-locked",
    "trash-moved",
    "trash-emptying",
    "trash-emptied",
];

/// Those of the ZFS store. Nothing else goes on between two of its commands, so one point is all of them.
#[cfg(feature = "faults")]
pub const ZFS_POINTS: &[&str] = &["zfs-ran"];

#[cfg(feature = "faults")]
fn is_point(name: &str) -> bool {
    POINTS.iter().chain(RSYNC_POINTS).chain(ZFS_POINTS).any(|point| *point == name)
}

#[cfg(feature = "faults")]
static ARMED: std::sync::Mutex<Option<(String, u32)>> = std::sync::Mutex::new(None);

/// Has the process killed when it passes the point `name` for the `passing`th time; the first is 1.
#[cfg(feature = "faults")]
pub fn arm(name: &str, passing: u32) {
    assert!(is_point(name), "there is no point `{name}`");
    *ARMED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
        Some((name.to_owned(), passing));
}

/// Passes the point `name`.
#[cfg(feature = "faults")]
pub fn point(name: &'static str) {
    debug_assert!(is_point(name), "`{name}` is missing in the list of points");
    let mut armed = ARMED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some((wanted, left)) = armed.as_mut().filter(|(wanted, _)| wanted == name) else { return };
    *left = left.saturating_sub(1);
    if *left == 0 {
        tracing::debug!("killed at {wanted}");
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may meet another thread first; this one goes no further.
        loop {
            std::thread::park();
        }
    }
}

/// Passes the point `name`.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) {}
