//! The conformance suite for sandboxes: what every implementation of [`Sandbox`] must do.
//!
//! An implementing crate calls [`sandbox_conformance!`](crate::sandbox_conformance) with a function that makes a
//! [`Fixture`], or says on standard error why it cannot and returns `None`; each check becomes a test.

mod crowd;

use std::any::Any;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bstr::{BString, ByteSlice};

use crate::cancel::Cancel;
use crate::contracts::Sandbox;
use crate::error::SandboxError;
use crate::log::BuildLog;
use crate::spec::User;
use crate::step::{CacheMount, Outcome, SecretMount, Step};

pub use crowd::as_many_steps_as_slots_run_at_once;

/// No check waits longer for anything.
const LONG: Duration = Duration::from_secs(20);

/// A sandbox, and where to try it.
pub struct Fixture {
    /// The sandbox.
    pub sandbox: Box<dyn Sandbox>,
    /// An empty directory where trees and caches may be made.
    pub scratch: PathBuf,
    /// What a step calls the root of its tree: `/`, or the canonical home.
    pub root: PathBuf,
    /// Whatever must live as long, such as the temporary directory.
    pub guard: Box<dyn Any + Send + Sync>,
}

/// `/bin/sh -c COMMAND` with nothing special about it.
pub fn step(command: &str) -> Step {
    Step {
        argv: ["/bin/sh", "-c", command].map(BString::from).to_vec(),
        workdir: "/".into(),
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
        user: User::ROOT,
        network: vec![],
        caches: vec![],
        secrets: vec![],
        timeout: None,
    }
}

impl Fixture {
    /// Makes an empty tree, as a store would.
    pub fn tree(&self, name: &str) -> PathBuf {
        let tree = self.scratch.join(name).join("rootfs");
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&tree);
        made.expect("the scratch directory is writable");
        tree
    }

    /// Runs `step` in `tree` and returns what it printed too.
    pub fn run(&self, step: &Step, tree: &Path) -> (Outcome, String) {
        self.run_with(step, tree, &Cancel::new())
    }

    /// The same, with a token.
    pub fn run_with(&self, step: &Step, tree: &Path, cancel: &Cancel) -> (Outcome, String) {
        let path = tree.with_file_name("log");
        let log = BuildLog::create(&path).expect("there is no log yet");
        let outcome = self.sandbox.run(step, tree, &log, cancel, &|_| {});
        let outcome = outcome.unwrap_or_else(|error| panic!("{}", told(&error)));
        let text = fs::read(&path).expect("the log is there");
        fs::remove_file(&path).expect("the log is there");
        (outcome, text.to_str_lossy().into_owned())
    }

    /// Runs `command` in a tree of its own.
    pub fn sh(&self, command: &str) -> (Outcome, String) {
        self.run(&step(command), &self.tree("tree"))
    }

    /// What a step calls `name` in its tree.
    fn inside(&self, name: &str) -> BString {
        self.root.join(name).into_os_string().into_encoded_bytes().into()
    }

    fn cache(&self, name: &str) -> CacheMount {
        let dir = self.scratch.join("caches").join(name);
        fs::create_dir_all(&dir).expect("the scratch directory is writable");
        CacheMount { id: name.into(), dir, target: self.inside(name) }
    }
}

/// An error with all its sources.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn ok(output: &str) -> (Outcome, String) {
    (Outcome::Exited(0), output.to_owned())
}

/// Standard output and standard error reach the log, in order and whole.
pub fn output_reaches_the_log_in_order(fixture: &Fixture) {
    assert_eq!(
        fixture.sh("echo one; echo two >&2; echo three; echo four >&2"),
        ok("one\ntwo\nthree\nfour\n")
    );
    let (outcome, text) = fixture.sh("i=0; while [ $i -lt 100000 ]; do echo $i; i=$((i+1)); done");
    assert_eq!(outcome, Outcome::Exited(0));
    let expected: String = (0..100_000).map(|i| format!("{i}\n")).collect();
    assert!(text == expected, "{} of {} bytes came", text.len(), expected.len());
}

/// A failing command is an outcome, with its status or signal.
pub fn a_failing_command_is_an_outcome(fixture: &Fixture) {
    assert_eq!(fixture.sh("exit 3").0, Outcome::Exited(3));
    // A sandbox may have a shell of its own in between, which says it its way.
    let killed = fixture.sh("kill -9 $$").0;
    assert!([Outcome::Signalled(9), Outcome::Exited(128 + 9)].contains(&killed), "{killed:?}");
}

/// A program that is missing fails as it would in a shell, and the log names it.
pub fn a_missing_program_is_a_failing_command(fixture: &Fixture) {
    let mut step = step("");
    step.argv = vec!["no-such-program".into(), "x".into()];
    let (outcome, text) = fixture.run(&step, &fixture.tree("tree"));
    assert_eq!(outcome, Outcome::Exited(127));
    assert!(text.contains("no-such-program"), "{text}");
}

/// What a step writes is in the tree, and the tree is where it was; the next step sees it.
pub fn changes_stay_in_the_tree(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    fs::write(tree.join("given"), "given\n").expect("the tree is writable");
    let mut step =
        step("cat given; echo made > made; mkdir -p deep/er; ln -s made link; rm -f given");
    step.workdir = fixture.inside("");
    assert_eq!(fixture.run(&step, &tree), ok("given\n"));
    assert_eq!(fs::read_to_string(tree.join("link")).expect("the link leads to a file"), "made\n");
    assert!(tree.join("deep/er").is_dir());
    step.argv[2] = "ls -d deep link made; cat given 2>/dev/null || echo gone".into();
    assert_eq!(fixture.run(&step, &tree), ok("deep\nlink\nmade\ngone\n"));
}

/// Paths of a spec are found in the tree, where a step finds them too.
pub fn located_paths_are_what_a_step_sees(fixture: &Fixture) {
    let locate = |path: &str| fixture.sandbox.locate(path.into());
    assert_eq!(locate("/").expect("the root is there"), Path::new(""));
    for path in ["/a/b", "/a/./b/", "//a/x/../b"] {
        assert_eq!(locate(path).expect("it is in the tree"), Path::new("a/b"), "{path}");
    }
    let own = fixture.inside("a/b");
    assert_eq!(fixture.sandbox.locate(own.as_bstr()).expect("it is in the tree"), Path::new("a/b"));
    for path in ["/..", "/a/../../../b"] {
        let inside = locate(path).map_or(true, |found| !found.starts_with(".."));
        assert!(inside, "{path} leads out of the tree");
    }
    let tree = fixture.tree("tree");
    fs::create_dir_all(tree.join("a/b")).expect("the tree is writable");
    fs::write(tree.join("a/b/file"), "found\n").expect("the tree is writable");
    let mut step = step("cat file");
    step.workdir = "/a/b".into();
    assert_eq!(fixture.run(&step, &tree), ok("found\n"));
}

/// A missing working directory is made, and the step may write there.
pub fn the_workdir_is_made(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let mut step = step("echo x > file");
    step.workdir = "/new/dir".into();
    assert_eq!(fixture.run(&step, &tree), ok(""));
    let file =
        tree.join(fixture.sandbox.locate("/new/dir/file".into()).expect("it is in the tree"));
    assert_eq!(fs::read_to_string(file).expect("it was written"), "x\n");
}

/// The step's variables are set, the first of a name counts, and the caller's own do not leak.
pub fn the_environment_is_the_steps(fixture: &Fixture) {
    let mut step = step("echo \"$A|$B|$SPACED\"; env");
    let set = [("A", "first"), ("A", "second"), ("B", ""), ("SPACED", "a  b\tc")];
    step.env.extend(set.map(|(name, value)| (name.into(), value.into())));
    let (outcome, text) = fixture.run(&step, &fixture.tree("tree"));
    assert_eq!(outcome, Outcome::Exited(0));
    assert_eq!(text.lines().next(), Some("first||a  b\tc"));
    // Every test run has this one.
    assert!(!text.contains("CARGO_MANIFEST_DIR="), "{text}");
}

/// Standard input is at its end.
pub fn standard_input_is_empty(fixture: &Fixture) {
    assert_eq!(fixture.sh("cat; echo done"), ok("done\n"));
}

/// New files are readable by everybody and writable by their owner.
pub fn the_umask_is_022(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let mut step = step("umask; echo x > file");
    step.workdir = fixture.inside("");
    assert_eq!(fixture.run(&step, &tree), ok("0022\n"));
    let mode = fs::metadata(tree.join("file")).expect("it was written").permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
}

/// Caches are there, writable, come back with what was written, and leave no trace in the tree.
pub fn caches_come_back_and_leave_no_trace(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let mut step = step("cat c1/old; echo new >> c1/old; echo x > sub/c2/y; exit 1");
    step.workdir = fixture.inside("");
    step.caches = vec![fixture.cache("c1"), fixture.cache("sub/c2")];
    let dirs: Vec<_> = step.caches.iter().map(|cache| cache.dir.clone()).collect();
    fs::write(dirs[0].join("old"), "old\n").expect("the cache is writable");
    assert_eq!(fixture.run(&step, &tree), (Outcome::Exited(1), "old\n".to_owned()));
    assert_eq!(fs::read_to_string(dirs[0].join("old")).expect("it is back"), "old\nnew\n");
    assert_eq!(fs::read_to_string(dirs[1].join("y")).expect("it is back"), "x\n");
    assert_empty(&tree);
}

/// A cache over something hides it for the time of the step alone.
pub fn a_cache_hides_what_it_covers(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    fs::create_dir(tree.join("c1")).expect("the tree is writable");
    fs::write(tree.join("c1/own"), "own\n").expect("the tree is writable");
    let mut step = step("ls c1; echo x > c1/cached");
    step.workdir = fixture.inside("");
    step.caches = vec![fixture.cache("c1")];
    assert_eq!(fixture.run(&step, &tree), ok(""));
    assert_eq!(fs::read_to_string(tree.join("c1/own")).expect("it is back"), "own\n");
    assert!(!tree.join("c1/cached").exists());
    assert!(step.caches[0].dir.join("cached").exists());
}

/// Secrets are readable by the step, by nobody else, and leave no trace.
pub fn secrets_leave_no_trace(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let mut step = step("cat run/one 'run/two words'; ls -l run | grep -c '^-r--------'");
    step.workdir = fixture.inside("");
    for (name, value) in [("one", "1"), ("two words", "2\n")] {
        let target = fixture.inside(&format!("run/{name}"));
        step.secrets.push(SecretMount { id: name.into(), target, value: value.into() });
    }
    assert_eq!(fixture.run(&step, &tree), ok("12\n2\n"));
    step.argv[2] = "exit 1".into();
    assert_eq!(fixture.run(&step, &tree).0, Outcome::Exited(1));
    assert_empty(&tree);
}

/// Cancelling ends a step soon, though it ignores signals, prints without end, has stopped or has closed its output.
pub fn cancelling_ends_any_step_soon(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let deaf =
        "trap '' HUP INT QUIT TERM; (trap '' HUP INT TERM; sleep 1000 & wait) & echo ready; ";
    let silent = "exec >&- 2>&-; while :; do sleep 1000; done";
    for rest in ["while :; do sleep 1000; done", "yes", "kill -STOP $$", silent] {
        let step = step(&format!("{deaf}{rest}"));
        let path = tree.with_file_name("log");
        let log = BuildLog::create(&path).expect("there is no log yet");
        let cancel = Cancel::new();
        let (outcome, took) = std::thread::scope(|scope| {
            let run = || fixture.sandbox.run(&step, &tree, &log, &cancel, &|_| {});
            let running = scope.spawn(run);
            let begun = log.reader().read(&mut [0; 1], &Cancel::new());
            assert_eq!(begun.expect("the log is readable"), 1);
            let asked = Instant::now();
            cancel.cancel();
            (running.join().expect("it does not panic"), asked.elapsed())
        });
        assert!(matches!(outcome, Ok(Outcome::Cancelled)), "{rest}: {outcome:?}");
        assert!(took < Duration::from_secs(1), "{rest}: {took:?}");
        assert!(tree.is_dir());
        fs::remove_file(path).expect("the log is there");
    }
}

/// A step that is cancelled before it begins does not begin.
pub fn a_cancelled_step_does_not_begin(fixture: &Fixture) {
    let cancel = Cancel::new();
    cancel.cancel();
    let tree = fixture.tree("tree");
    let mut step = step("echo ran > ran");
    step.workdir = fixture.inside("");
    assert_eq!(fixture.run_with(&step, &tree, &cancel), (Outcome::Cancelled, String::new()));
    assert!(!tree.join("ran").exists());
}

/// A step ends at its time limit.
pub fn a_time_limit_ends_a_step(fixture: &Fixture) {
    let limit = Duration::from_millis(200);
    let mut step = step("echo begun; sleep 1000");
    step.timeout = Some(limit);
    let started = Instant::now();
    let (outcome, text) = fixture.run(&step, &fixture.tree("tree"));
    assert_eq!((outcome, text.as_str()), (Outcome::TimedOut(limit), "begun\n"));
    assert!(limit <= started.elapsed() && started.elapsed() < LONG);
    step.timeout = Some(LONG);
    step.argv[2] = "true".into();
    assert_eq!(fixture.run(&step, &fixture.tree("tree")), ok(""));
}

/// Nothing that a step started lives after it, not a daemon in a session of its own that holds the log open.
pub fn nothing_survives_a_step(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let daemon = "trap '' HUP TERM; exec 3<>alive; touch ready; while :; do sleep 1000; done";
    let mut step = step(&format!(
        "mkfifo alive; s=$(command -v setsid) || s=; ( ( $s sh -c \"{daemon}\" & ) & ); \
         while [ ! -e ready ]; do sleep 0.01; done; echo done"
    ));
    step.workdir = fixture.inside("");
    let started = Instant::now();
    assert_eq!(fixture.run(&step, &tree), ok("done\n"));
    assert!(started.elapsed() < LONG, "the daemon kept the step waiting");
    assert_nobody_holds(&tree.join("alive"));
}

/// Nor does a process live that has stopped, and so takes no signal but one.
pub fn no_stopped_process_survives_a_step(fixture: &Fixture) {
    let tree = fixture.tree("tree");
    let stops = "exec 3<>alive; touch ready; kill -STOP $$";
    let mut step = step(&format!(
        "mkfifo alive; sh -c '{stops}' & while [ ! -e ready ]; do sleep 0.01; done; echo done"
    ));
    step.workdir = fixture.inside("");
    let started = Instant::now();
    assert_eq!(fixture.run(&step, &tree), ok("done\n"));
    assert!(started.elapsed() < LONG, "the stopped process kept the step waiting");
    assert_nobody_holds(&tree.join("alive"));
}

/// More steps than slots wait for each other.
pub fn steps_wait_for_a_slot(fixture: &Fixture) {
    let names = ["a", "b", "c"];
    let outcomes = std::thread::scope(|scope| {
        let running = names.map(|name| {
            let tree = fixture.tree(name);
            let run = move || fixture.run(&step(&format!("echo {name}; sleep 0.1")), &tree);
            scope.spawn(run)
        });
        running.map(|thread| thread.join().expect("it does not panic"))
    });
    assert_eq!(outcomes, names.map(|name| ok(&format!("{name}\n"))));
}

/// What cannot be honoured is said before anything is made.
pub fn what_cannot_be_honoured_is_said_first(fixture: &Fixture) {
    let mut elsewhere = step("true");
    elsewhere.network = vec!["elsewhere".into()];
    let refused = fixture.sandbox.check(&elsewhere);
    assert!(matches!(refused, Err(SandboxError::Unsupported { .. })), "{refused:?}");
    let mut named = step("true");
    named.user = User::Name("nobody-has-this-name".into());
    let refused = fixture.sandbox.check(&named);
    assert!(matches!(refused, Err(SandboxError::Unsupported { .. })), "{refused:?}");
    assert!(matches!(fixture.sandbox.check(&step("true")), Ok(())));
    let mut host = step("true");
    host.network = vec!["host".into()];
    assert!(matches!(fixture.sandbox.check(&host), Ok(())));
}

/// Two secrets that would have one name in the directory of secrets are refused, wherever else they are to be seen.
pub fn secrets_of_one_name_are_refused(fixture: &Fixture) {
    let mut step = step("true");
    for dir in ["one", "two"] {
        let target = fixture.inside(&format!("{dir}/key"));
        step.secrets.push(SecretMount { id: dir.into(), target, value: "hidden-value".into() });
    }
    match fixture.sandbox.check(&step) {
        Err(SandboxError::Unsupported { what, hint }) => {
            assert!(what.contains("key"), "{what}");
            assert!(!format!("{what} {hint}").contains("hidden-value"), "it tells the secret");
        }
        other => panic!("{other:?}"),
    }
    step.secrets[1].target = fixture.inside("two/other");
    assert!(matches!(fixture.sandbox.check(&step), Ok(())));
}

fn assert_nobody_holds(pipe: &Path) {
    // A pipe that nobody reads cannot be opened for writing without waiting.
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let opened = rustix::fs::open(pipe, flags, rustix::fs::Mode::empty());
    assert_eq!(opened.expect_err("a process of the step lives"), rustix::io::Errno::NXIO);
}

fn assert_empty(tree: &Path) {
    let left: Vec<_> = fs::read_dir(tree).expect("the tree is back").flatten().collect();
    assert!(left.is_empty(), "left in the tree: {left:?}");
    drop(File::open(tree).expect("the tree can be opened"));
}

/// Makes one test of each check of [`testing::sandbox`](crate::testing::sandbox), on what `$fixture()` returns.
#[macro_export]
macro_rules! sandbox_conformance {
    ($fixture:path) => {
        $crate::sandbox_conformance! { @checks $fixture:
            output_reaches_the_log_in_order, a_failing_command_is_an_outcome,
            a_missing_program_is_a_failing_command, changes_stay_in_the_tree,
            located_paths_are_what_a_step_sees, the_workdir_is_made, the_environment_is_the_steps,
            standard_input_is_empty, the_umask_is_022, caches_come_back_and_leave_no_trace,
            a_cache_hides_what_it_covers, secrets_leave_no_trace, cancelling_ends_any_step_soon,
            a_cancelled_step_does_not_begin, a_time_limit_ends_a_step, nothing_survives_a_step,
            no_stopped_process_survives_a_step, steps_wait_for_a_slot,
            as_many_steps_as_slots_run_at_once, what_cannot_be_honoured_is_said_first,
            secrets_of_one_name_are_refused,
        }
    };
    (@checks $fixture:path: $($check:ident),* $(,)?) => {
        $(
            #[test]
            fn $check() {
                if let Some(fixture) = $fixture() {
                    $crate::testing::sandbox::$check(&fixture);
                }
            }
        )*
    };
}
