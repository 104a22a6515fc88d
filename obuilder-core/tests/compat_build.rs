//! Recorded OBuilder builds, run again by the real interpreter: ids, headings and notes must be OBuilder's.
//!
//! The stand-in sandbox runs a real shell in the tree, so what commands print is compared too; but that may depend on the
//! root filesystem, so a difference there is only told.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where it fails, and says what it skips"
)]

#[allow(dead_code, reason = "each test program uses its own part")]
mod compat_case;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use compat_case::Case;
use obuilder_core::bstr::{BStr, BString, ByteSlice, ByteVec};
use obuilder_core::cache::ResultCache;
use obuilder_core::contracts::{Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::interpreter::{Builder, Context, Options};
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};
use obuilder_core::testing::shell_sandbox::ShellSandbox;
use obuilder_core::testing::strict_store::StrictStore;
use obuilder_core::{BuildLog, Cancel, Fetcher};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn builds_say_what_obuilder_said() {
    let sandbox = match ShellSandbox::new() {
        // OBuilder does one thing after the other.
        Ok(sandbox) => Arc::new(sandbox.with_slots(1)),
        Err(error) => {
            eprintln!("SKIP: recorded builds: {error}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) =
        ResultCache::open(Arc::new(StrictStore::new(&dir.path().join("store")))).unwrap();
    let builder = Builder { cache, sandbox, fetcher: Arc::new(NamedEnvironment) };
    for case in in_recorded_order(Case::all()) {
        eprintln!("{}", case.name());
        let said = build(&builder, &case, dir.path());
        compare(&case, &said, &on_one_line(&case.file("expected.log")));
    }
}

/// All cases were recorded on one store: whatever one found in the cache, another had built before.
fn in_recorded_order(mut cases: Vec<Case>) -> Vec<Case> {
    let mut built = HashSet::new();
    let mut order = Vec::new();
    while !cases.is_empty() {
        let ready = cases.iter().position(|case| {
            let log = case.file("expected.log");
            let own: HashSet<_> = ids(&log, "---> saved as \"").collect();
            ids(&log, "---> using \"").all(|id| built.contains(&id) || own.contains(&id))
        });
        // What was built before the recording began has no builder among the cases.
        let case = cases.remove(ready.unwrap_or(0));
        built.extend(ids(&case.file("expected.log"), "---> saved as \""));
        order.push(case);
    }
    order
}

fn ids(log: &[u8], note: &'static str) -> impl Iterator<Item = BString> {
    let at: Vec<_> =
        log.find_iter(note).map(|at| BString::from(&log[at + note.len()..][..64])).collect();
    at.into_iter()
}

fn build(builder: &Builder, case: &Case, dir: &Path) -> Vec<Said> {
    let context_dir = dir.join(format!("context-{}", case.name()));
    fs::create_dir(&context_dir).unwrap();
    if case.dir.join("context.tar").exists() {
        let unpacked = Command::new("tar")
            .arg("-xpf")
            .arg(case.dir.join("context.tar"))
            .arg("-C")
            .arg(&context_dir)
            .status();
        assert!(unpacked.unwrap().success());
    }
    let mut context = Context::new(&context_dir);
    if let Ok(secrets) = fs::read_dir(case.dir.join("secrets")) {
        for secret in secrets.map(Result::unwrap) {
            let id = Vec::from_os_string(secret.file_name()).unwrap();
            context.secrets.push((id.into(), fs::read(secret.path()).unwrap().into()));
        }
    }
    let said = Transcript::default();
    let as_obuilder = Options { redact: false, ..Options::default() };
    let result = builder.build(&case.spec(), &context, &as_obuilder, &Cancel::new(), &said);
    let mut said = said.0.into_inner().unwrap();
    match result {
        Ok(got) => said.push(Said::Line(format!("Got: \"{got}\""))),
        // A build that failed when it was recorded must fail here as well.
        Err(error) if case.file("expected.log").contains_str("Got: ") => {
            panic!("{}: {error:?}", case.name())
        }
        Err(_) => {}
    }
    said
}

/// Every line of ours stands in the recorded log, in order, with nothing but output between them, and that only where ours has it.
fn compare(case: &Case, said: &[Said], expected: &[u8]) {
    let mut rest = expected;
    let mut output = BString::default();
    let mut running = false;
    for said in said {
        let mut line = match said {
            Said::Output(bytes) => {
                output.push_str(bytes);
                continue;
            }
            Said::Line(line) | Said::BaseSaved { note: line, .. } => format!("{line}\n"),
        };
        if let Said::BaseSaved { cached, .. } = said
            && rest.starts_with_str(cached)
        {
            // The recording's store had the image from an earlier build.
            line = format!("{cached}\n");
        }
        let at = rest.find(&line).unwrap_or_else(|| {
            panic!(
                "{}: the recorded log does not go on with\n{line}but with\n{}",
                case.name(),
                rest.as_bstr()
            )
        });
        let between = &rest[..at];
        for mark in ["---> saved as", "---> using", "--> finished", "\n/: (", "Got: "] {
            assert!(
                !between.contains_str(mark),
                "{}: ours lacks\n{}",
                case.name(),
                between.as_bstr()
            );
        }
        let ours = std::mem::take(&mut output);
        if running && ours != between {
            eprintln!("{}: a command printed `{ours}`, not `{}`", case.name(), between.as_bstr());
        } else {
            assert_eq!(between.as_bstr(), ours, "{}: before {line}", case.name());
        }
        running = line.contains(": (run ");
        rest = &rest[at + line.len()..];
    }
    if expected.contains_str("Got: ") {
        assert_eq!(rest.as_bstr(), "", "{}: the recorded log goes on", case.name());
    }
}

/// OCaml's printer breaks an atom that holds a newline over several lines; ours does not. This undoes it.
fn on_one_line(log: &[u8]) -> BString {
    let mut joined = BString::default();
    for line in log.lines_with_terminator() {
        let continued = joined.ends_with(b"\\\n") && line.trim_start().starts_with(b"\\n");
        if continued {
            let end = joined.len() - 2;
            joined.truncate(end);
            let start = joined.rfind_byte(b'\n').map_or(0, |at| at + 1);
            let heading = joined[start..].replace("  \"", " \"");
            joined.truncate(start);
            joined.push_str(heading);
        }
        joined.push_str(if continued { line.trim_start() } else { line });
    }
    joined
}

/// What a build says: whole lines of its own, and output of commands.
enum Said {
    Line(String),
    /// A base image was imported; what would have been said had it been there.
    BaseSaved {
        note: String,
        cached: String,
    },
    Output(BString),
}

#[derive(Default)]
struct Transcript(Mutex<Vec<Said>>);

impl Transcript {
    fn after_from(&self) -> bool {
        matches!(self.0.lock().unwrap().last(), Some(Said::Line(line)) if line.starts_with("(from "))
    }
}

impl Observer for Transcript {
    fn event(&self, _: &Stage, event: Event<'_>) {
        let said = match event {
            Event::BuildStarted { heading, .. } => Said::Line(heading.to_owned()),
            Event::BuildFinished { name, .. } => Said::Line(format!("--> finished \"{name}\"")),
            Event::Heading { text } => Said::Line(text.to_owned()),
            Event::Output { bytes } => Said::Output(bytes.into()),
            Event::StepFinished { id, end: StepEnd::Saved, .. } if self.after_from() => {
                Said::BaseSaved {
                    note: format!("---> saved as \"{id}\""),
                    cached: format!("---> using \"{id}\" from cache"),
                }
            }
            Event::StepFinished { id, end: StepEnd::Saved, .. } => {
                Said::Line(format!("---> saved as \"{id}\""))
            }
            Event::StepFinished { id, end: StepEnd::Cached, .. } => {
                Said::Line(format!("---> using \"{id}\" from cache"))
            }
            _ => return,
        };
        self.0.lock().unwrap().push(said);
    }
}

/// Every base image is an empty tree with the recorded image's environment.
struct NamedEnvironment;

impl Fetcher for NamedEnvironment {
    fn fingerprint(&self, _: &BStr, _: Option<&Fingerprint>) -> Result<Fingerprint, FetchError> {
        Ok(Fingerprint { stamp: "1".into(), digest: "1".into() })
    }

    fn environment(&self, _: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        Ok(vec![("PATH".into(), PATH.into())])
    }

    fn fetch(&self, base: &BStr, _: &Path, _: &BuildLog, _: &Cancel) -> Result<Image, FetchError> {
        Ok(Image { env: self.environment(base)?, fingerprint: self.fingerprint(base, None)? })
    }
}
