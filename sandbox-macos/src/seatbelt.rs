//! A [`Policy`] in the language of Seatbelt, the sandbox of macOS.
//!
//! The profile begins with `(allow default)` and takes away. One that begins with `(deny default)` has to name every Mach
//! service, sysctl and driver that compilers and their tools use, a list that changes with each release of the system; a
//! gap in it breaks builds, while the build user's plain permissions already cover most of what it would add.
//!
//! Of the rules on one path the last one counts. A rule without a filter is an operation's default, so none stands behind
//! one with a filter, except where nothing may be allowed again.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::BString;

use crate::policy::{Network, Policy};

/// Longest expression, in bytes, the paths that it names included. The compiler gives up at four times that (nix issue 4119).
const LONGEST: usize = 1 << 14;

/// What stands before everything else: jobs handed to launchd would outlive the step, and signals to the same user are for
/// the step's own processes.
const HEAD: &str = r#"(version 1)
(allow default)
(deny job-creation)
(deny signal)
(allow signal (target self) (target same-sandbox))
"#;

/// Devices that anybody writes to; who may open which terminal is up to its permissions.
const DEVICES: &str = r#"(allow file-write*
  (literal "/dev/null")
  (literal "/dev/zero")
  (literal "/dev/random")
  (literal "/dev/urandom")
  (literal "/dev/tty")
  (literal "/dev/ptmx")
  (literal "/dev/dtracehelper")
  (regex #"^/dev/fd/[0-9]+$")
  (regex #"^/dev/tty[a-z0-9]*$"))
"#;

/// `ps` is setuid root, which no sandboxed process may execute; it runs outside, as it does for Homebrew.
const SETUID_PROGRAMS: &str = "(allow process-exec (literal \"/bin/ps\") (with no-sandbox))\n";

/// Bazel's way to leave the loopback alone. A socket of the system among the allowed ones looks names up, `localhost` too.
const LOOPBACK: &str = r#"(deny network*)
(allow network* (local ip "localhost:*"))
(allow network* (remote ip "localhost:*"))
(allow network* (remote unix-socket))
"#;

/// Stands last, as nothing may allow it again: a setuid file of one build user's would let another become it.
const TAIL: &str = "(deny file-write-setugid)\n";

/// A profile, and the paths that it names by parameters, so that no path needs quoting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Profile {
    /// The rules.
    pub(crate) text: String,
    /// Names and values.
    pub(crate) parameters: Vec<(String, PathBuf)>,
    names: HashMap<PathBuf, String>,
}

impl Profile {
    /// Writes `policy` down.
    pub(crate) fn new(policy: &Policy) -> Self {
        let mut profile = Self { text: HEAD.to_owned(), ..Self::default() };
        profile.reading(policy);
        profile.writing(policy);
        profile.executing(policy);
        if policy.network == Network::Loopback {
            profile.text.push_str(LOOPBACK);
        }
        profile.text.push_str(TAIL);
        profile
    }

    /// What `sandbox-exec` is told: everything between its own name and the command's.
    pub(crate) fn arguments(&self) -> Vec<BString> {
        let mut arguments = vec!["-p".into(), self.text.as_str().into()];
        for (name, path) in &self.parameters {
            let value = [name.as_bytes(), b"=", path.as_os_str().as_bytes()].concat();
            arguments.extend(["-D".into(), value.into()]);
        }
        arguments.push("--".into());
        arguments
    }

    fn reading(&mut self, policy: &Policy) {
        let readable = canonical_all(&policy.readable);
        if readable.contains(Path::new("/")) {
            return;
        }
        self.text.push_str("(deny file-read* (with no-log))\n");
        // The loader and `getcwd` look at everything above what they read, and list the root itself.
        self.text.push_str("(allow file-read* (literal \"/\") (subpath \"/dev\"))\n");
        let writable = canonical_all(&policy.writable);
        let above = readable.iter().chain(&writable).flat_map(|path| path.ancestors().skip(1));
        self.rule("allow file-read-metadata", "literal", above.map(Path::to_owned).collect());
        self.rule("allow file-read*", "subpath", readable);
    }

    /// Inner paths come after outer ones, so that each path's nearest rule is its last.
    fn writing(&mut self, policy: &Policy) {
        self.text.push_str("(deny file-write* (with no-log))\n");
        self.text.push_str(DEVICES);
        let (hidden, writable) = (canonical_all(&policy.hidden), canonical_all(&policy.writable));
        let mut readable = canonical_all(&policy.readable);
        readable.retain(|path| is_inside(path, &hidden) && !writable.contains(path));
        let depths =
            depths([&hidden, &writable, &readable].into_iter().flatten().cloned().collect());
        let deepest = depths.values().max().map_or(0, |deepest| deepest + 1);
        for depth in 0..deepest {
            let at = |paths: &BTreeSet<PathBuf>| {
                paths.iter().filter(|path| depths[*path] == depth).cloned().collect()
            };
            let (seen, open): (BTreeSet<_>, BTreeSet<_>) = (at(&readable), at(&writable));
            let passed = passages(seen.union(&open), &hidden);
            self.rule("deny file-read* file-write* (with no-log)", "subpath", at(&hidden));
            self.rule("allow file-read-metadata", "literal", passed);
            self.rule("allow file-read*", "subpath", seen);
            self.rule("allow file-read* file-write*", "subpath", open);
        }
    }

    fn executing(&mut self, policy: &Policy) {
        let executable = canonical_all(&policy.executable);
        if !executable.is_empty() && !executable.contains(Path::new("/")) {
            self.text.push_str("(deny process-exec* (with no-log))\n");
            self.rule("allow process-exec*", "subpath", executable);
        }
        self.text.push_str(SETUID_PROGRAMS);
    }

    /// Adds a rule on `paths`, in as many expressions as it takes; without a path none, as it would be on everything.
    fn rule(&mut self, head: &str, filter: &str, paths: BTreeSet<PathBuf>) {
        let mut length = 0;
        for path in &paths {
            let filter = format!("\n  ({filter} (param \"{}\"))", self.parameter(path));
            let adds = filter.len() + path.as_os_str().len();
            if length > 0 && length + adds > LONGEST {
                self.text.push_str(")\n");
                length = 0;
            }
            if length == 0 {
                self.text.push('(');
                self.text.push_str(head);
            }
            self.text.push_str(&filter);
            length += adds;
        }
        if length > 0 {
            self.text.push_str(")\n");
        }
    }

    /// The name of the parameter that stands for `path`.
    fn parameter(&mut self, path: &Path) -> String {
        let next = format!("PATH_{}", self.parameters.len());
        let name = self.names.entry(path.to_owned()).or_insert_with(|| {
            self.parameters.push((next.clone(), path.to_owned()));
            next
        });
        name.clone()
    }
}

/// How many paths of `all` lie above each.
fn depths(all: BTreeSet<PathBuf>) -> HashMap<PathBuf, usize> {
    let above = |path: &Path| path.ancestors().skip(1).filter(|dir| all.contains(*dir)).count();
    all.iter().map(|path| (path.clone(), above(path))).collect()
}

/// The hidden directories on the way to each of `open`, which have to be passed though not listed.
fn passages<'a>(
    open: impl Iterator<Item = &'a PathBuf>,
    hidden: &BTreeSet<PathBuf>,
) -> BTreeSet<PathBuf> {
    let above = open.flat_map(|path| path.ancestors().skip(1));
    above.filter(|dir| is_inside(dir, hidden)).map(Path::to_owned).collect()
}

/// Whether `path` is one of `hidden` or lies in one.
fn is_inside(path: &Path, hidden: &BTreeSet<PathBuf>) -> bool {
    path.ancestors().any(|above| hidden.contains(above))
}

fn canonical_all(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    paths.iter().map(|path| canonical(path)).collect()
}

/// The name that the kernel knows `path` by, as far as every Mac agrees: `/tmp`, `/var` and `/etc` are links into `/private`,
/// and the directories of the data volume show at the root (/usr/share/firmlinks). No slash at the end.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    const LINKS: [&str; 3] = ["/tmp", "/var", "/etc"];
    const DATA: &str = "/System/Volumes/Data";
    const FIRMLINKS: [&str; 8] =
        ["Applications", "Library", "Users", "Volumes", "cores", "opt", "private", "usr/local"];
    // Collected anew, to lose the slash.
    let mut path: PathBuf = path.components().collect();
    if let Ok(inside) = path.strip_prefix(DATA)
        && FIRMLINKS.iter().any(|link| inside.starts_with(link))
    {
        path = Path::new("/").join(inside);
    }
    match LINKS.iter().any(|link| path.starts_with(link)) {
        true => Path::new("/private").join(path.strip_prefix("/").unwrap_or(&path)),
        false => path,
    }
}

/// Follows the links on the way to `path`, as far as it is there; the rest is what [`canonical`] makes of it.
pub(crate) fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
    canonical(&match found {
        Some((dir, real)) => real.join(path.strip_prefix(dir).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    })
}

#[cfg(test)]
mod tests;
