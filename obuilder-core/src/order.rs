//! Text of nested builds that run at once, in an order that can be read.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use tempfile::SpooledTempFile;

use crate::log::no_more;

/// Bytes of one build that wait in memory; more wait in a temporary file.
const IN_MEMORY: usize = 1 << 20;

/// Writes the text of nested builds one build after the other, in the order in which they begin, as if each began when the
/// one before had ended. The text of the first of them passes through at once, that of the others waits.
pub struct Order<W> {
    out: W,
    /// The builds that were begun and whose text has not all passed on, by their path; the outermost always.
    builds: HashMap<Vec<String>, Build>,
    spool: Spool,
}

/// Where text waits.
#[derive(Debug, Clone)]
pub struct Spool {
    /// Directory for temporary files; they have no name there.
    pub dir: PathBuf,
    /// Most bytes that wait of one build; its text says when there were more.
    pub most: u64,
}

impl Default for Spool {
    /// As much as there is, where temporary files usually are.
    fn default() -> Self {
        Self { dir: std::env::temp_dir(), most: u64::MAX }
    }
}

#[derive(Default)]
struct Build {
    /// What waits, behind the one before; `None` where nothing ever had to.
    waiting: Option<SpooledTempFile>,
    /// How much that was, or would have been.
    kept: u64,
    /// Nested builds in it, the first of which passes its text on.
    nested: VecDeque<String>,
    ended: bool,
}

impl<W: Write> Order<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self::with(out, Spool::default())
    }

    /// Writes to `out`; what waits does so in `spool`.
    pub fn with(out: W, spool: Spool) -> Self {
        Self { out, builds: HashMap::from([(Vec::new(), Build::default())]), spool }
    }

    /// The build at `path` begins in the one around it.
    pub fn begin(&mut self, path: &[String]) {
        let Some((name, around)) = path.split_last() else { return };
        if let Some(around) = self.builds.get_mut(around) {
            around.nested.push_back(name.clone());
            self.builds.insert(path.to_vec(), Build::default());
        }
    }

    /// The build at `path` has said its last.
    pub fn end(&mut self, path: &[String]) {
        if let Some(build) = self.builds.get_mut(path) {
            build.ended = true;
        }
        if let Some((name, around)) = path.split_last()
            && self.is_first(around, name)
        {
            self.pass_on(around, false);
        }
    }

    /// Writes what belongs to the build at `path`, now or when its turn comes.
    pub fn write(&mut self, path: &[String], bytes: &[u8]) {
        match path.split_last() {
            Some((name, around)) if self.is_first(around, name) => self.write(around, bytes),
            Some(_) if self.keep(path, bytes).is_ok() => {}
            // The outermost; and better out of order than lost, where a temporary file cannot be written.
            // What cannot be written is the writer's concern.
            _ => drop(self.out.write_all(bytes)),
        }
    }

    /// Writes all that still waits: nothing more comes of any build.
    pub fn finish(&mut self) -> &mut W {
        self.pass_on(&[], true);
        &mut self.out
    }

    /// Whether the build passes its text on: it is the first of those around it, or has never begun.
    fn is_first(&self, around: &[String], name: &str) -> bool {
        self.builds
            .get(around)
            .is_none_or(|build| build.nested.front().is_none_or(|first| first == name))
    }

    fn keep(&mut self, path: &[String], bytes: &[u8]) -> io::Result<()> {
        let build = self.builds.entry(path.to_vec()).or_default();
        let Spool { dir, most } = &self.spool;
        let waiting = build.waiting.get_or_insert_with(|| SpooledTempFile::new_in(IN_MEMORY, dir));
        let room = usize::try_from(most.saturating_sub(build.kept)).unwrap_or(usize::MAX);
        waiting.write_all(&bytes[..bytes.len().min(room)])?;
        let before = build.kept;
        build.kept = before.saturating_add(bytes.len() as u64);
        if before <= *most && build.kept > *most {
            waiting.write_all(no_more(*most).as_bytes())?;
        }
        Ok(())
    }

    /// Lets the builds at `around` that have ended go, or `all` of them, and the text of the next one come.
    fn pass_on(&mut self, around: &[String], all: bool) {
        loop {
            let first = self.builds.get(around).and_then(|build| build.nested.front());
            let Some(name) = first.cloned() else { return };
            let path = [around, &[name]].concat();
            self.show_waiting(&path);
            if all {
                self.pass_on(&path, true);
            } else if !self.builds.get(&path).is_none_or(|build| build.ended) {
                return;
            }
            self.builds.remove(&path);
            if let Some(around) = self.builds.get_mut(around) {
                around.nested.pop_front();
            }
        }
    }

    /// Writes what has waited of the build at `path`, whose turn it is.
    fn show_waiting(&mut self, path: &[String]) {
        let waiting = self.builds.get_mut(path).and_then(|build| build.waiting.take());
        let Some(mut text) = waiting else { return };
        let mut buffer = vec![0; 1 << 16];
        let mut read = text.rewind().and_then(|()| text.read(&mut buffer));
        while let Ok(count @ 1..) = read {
            self.write(path, &buffer[..count]);
            read = text.read(&mut buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// `+P` begins P, `-P` ends it, `P:TEXT` writes; gives what has been written after each.
    fn check(events: &[(&str, &str)], rest: &str) {
        let mut order = Order::new(Vec::new());
        for (event, expected) in events {
            let before = order.out.len();
            match (event.strip_prefix('+'), event.strip_prefix('-'), event.split_once(':')) {
                (Some(name), ..) => order.begin(&path(name)),
                (_, Some(name), _) => order.end(&path(name)),
                (.., Some((name, text))) => order.write(&path(name), text.as_bytes()),
                _ => unreachable!(),
            }
            let written = String::from_utf8_lossy(&order.out[before..]).into_owned();
            assert_eq!(&written, expected, "after {event}");
        }
        let before = order.out.len();
        let written = order.finish()[before..].to_vec();
        assert_eq!(String::from_utf8(written).unwrap(), rest);
    }

    #[test]
    fn the_first_passes_and_the_others_wait() {
        check(
            &[
                ("+a", ""),
                ("a:1", "1"),
                ("+b", ""),
                ("b:2", ""),
                ("+c", ""),
                ("c:3", ""),
                ("-c", ""),
                ("a:4", "4"),
                ("-a", "2"),
                ("b:5", "5"),
                ("-b", "3"),
                (":6", "6"),
            ],
            "",
        );
    }

    #[test]
    fn builds_in_builds_wait_with_them() {
        check(
            &[
                ("+a", ""),
                ("+b", ""),
                ("+b/x", ""),
                ("+b/y", ""),
                ("b/y:2", ""),
                ("b/x:1", ""),
                ("-b/x", ""),
                ("a:0", "0"),
                ("-a", "12"),
                ("b/y:3", "3"),
                ("-b/y", ""),
                ("b:4", "4"),
                ("-b", ""),
            ],
            "",
        );
    }

    #[test]
    fn nothing_is_lost_of_a_build_that_fails() {
        let events = [
            ("+a", ""),
            ("+b", ""),
            ("+b/x", ""),
            ("+b/y", ""),
            ("b/y:2", ""),
            ("b/x:1", ""),
            ("a:0", "0"),
        ];
        check(&events, "12");
    }

    #[test]
    fn much_text_waits_in_a_file() {
        let mut order = Order::new(Vec::new());
        order.begin(&path("a"));
        order.begin(&path("b"));
        let line = [b'x'; 1 << 16];
        (0..40).for_each(|_| order.write(&path("b"), &line));
        assert!(order.builds[&path("b")].waiting.as_ref().unwrap().is_rolled());
        order.end(&path("a"));
        assert_eq!(order.out.len(), 40 << 16);
    }

    #[test]
    fn what_waits_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool { dir: dir.path().into(), most: 4 };
        let mut order = Order::with(Vec::new(), spool);
        for name in ["a", "b"] {
            order.begin(&path(name));
        }
        for text in ["12", "345", "678"] {
            order.write(&path("b"), text.as_bytes());
            order.write(&path("a"), text.as_bytes());
        }
        let said = String::from_utf8(order.finish().clone()).unwrap();
        assert_eq!(said, format!("123456781234{}", no_more(4)));
    }
}
