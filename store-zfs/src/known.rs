//! What results have below them, as far as this process knows it without asking `zfs`.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tree::Children;

/// By their paths below the pool. Another process may delete one, and make it anew from an image that has something else below it:
/// who takes a result from its place changes a file, and what was known before that is forgotten. Asking for the numbers of
/// snapshots instead would be the command that this saves.
#[derive(Debug)]
pub(crate) struct Known {
    changes: PathBuf,
    of: Mutex<Since>,
}

/// What was noted since the file of changes held this.
#[derive(Debug, Default)]
struct Since {
    change: String,
    children: HashMap<String, Children>,
}

impl Known {
    /// Nothing yet; `changes` is the file.
    pub(crate) fn new(changes: PathBuf) -> Self {
        Self { changes, of: Mutex::default() }
    }

    /// Makes the file, unless it is there or there is no room for it: what is known without it is not trusted.
    pub(crate) fn begin(&self, unique: String) {
        if self.change().is_empty()
            && let Err(error) = fs::write(&self.changes, unique)
        {
            tracing::debug!(%error, "what this process will know is not trusted");
        }
    }

    /// The last change.
    pub(crate) fn change(&self) -> String {
        fs::read_to_string(&self.changes).unwrap_or_default()
    }

    fn now(&self) -> MutexGuard<'_, Since> {
        let change = self.change();
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever had no room to tell a change has left nothing.
        if of.change != change || change.is_empty() {
            *of = Since { change, children: HashMap::new() };
        }
        of
    }

    pub(crate) fn get(&self, path: &str) -> Option<Children> {
        self.now().children.get(path).cloned()
    }

    pub(crate) fn note(&self, path: String, children: Children) {
        self.now().children.insert(path, children);
    }

    pub(crate) fn forget(&self, path: &str) {
        self.now().children.remove(path);
    }

    /// Takes over what was seen in the pool after the last change was `change`.
    pub(crate) fn take_over(&self, change: String, children: HashMap<String, Children>) {
        *self.of.lock().unwrap_or_else(PoisonError::into_inner) = Since { change, children };
    }

    /// Has every process forget what it knows, but this one, which need only forget `path`; `unique` tells the change from all
    /// others.
    pub(crate) fn changed(&self, path: &str, unique: String) {
        let mut of = self.now();
        of.children.remove(path);
        match fs::write(&self.changes, &unique) {
            Ok(()) => of.change = unique,
            // The pool may be full, and deleting is what helps. Without the file nobody trusts what they know.
            Err(error) => {
                tracing::debug!(%error, "what has changed cannot be told");
                let _ = fs::remove_file(&self.changes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_another_process_takes_away_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let [own, other] = [(); 2].map(|()| Known::new(dir.path().join("changes")));
        own.note("result/a".to_owned(), vec![0]);
        assert_eq!(own.get("result/a"), None, "there is no file");
        own.begin("0".to_owned());
        other.begin("1".to_owned());
        assert_eq!(own.change(), "0");
        own.note("result/a".to_owned(), vec![0]);
        own.note("result/b".to_owned(), vec![0, 1]);
        own.changed("result/b", "1".to_owned());
        assert_eq!((own.get("result/a"), own.get("result/b")), (Some(vec![0]), None));
        other.changed("result/a", "2".to_owned());
        assert_eq!(own.get("result/a"), None);
        own.take_over("1".to_owned(), HashMap::from([("result/a".to_owned(), vec![0])]));
        assert_eq!(own.get("result/a"), None, "it was seen before the change");
        own.take_over(own.change(), HashMap::from([("result/a".to_owned(), vec![1])]));
        assert_eq!(own.get("result/a"), Some(vec![1]));
    }
}
