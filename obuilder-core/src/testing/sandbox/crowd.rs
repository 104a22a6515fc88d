//! Checks of several steps at once.

use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::{Fixture, LONG, step, told};
use crate::cancel::Cancel;
use crate::error::SandboxError;
use crate::log::BuildLog;
use crate::step::Outcome;

/// No check runs more steps at once, however many slots there are.
const MOST: usize = 8;

/// A step that prints a word and then sleeps, on a thread of its own.
struct Sleeper {
    cancel: Cancel,
    /// Told when the step has printed something.
    printed: Receiver<()>,
    /// Told what the step waits for.
    waiting: Receiver<String>,
}

impl Sleeper {
    fn start<'scope>(
        fixture: &'scope Fixture,
        scope: &'scope thread::Scope<'scope, '_>,
        name: &str,
    ) -> (Self, thread::ScopedJoinHandle<'scope, Result<Outcome, SandboxError>>) {
        let tree = fixture.tree(name);
        let log = BuildLog::create(&tree.with_file_name("log")).expect("there is no log yet");
        let ((print, printed), (wait, waiting)) = (channel(), channel());
        log.on_begin(move || {
            // Whoever has stopped listening has seen enough.
            let _ = print.send(());
        });
        let cancel = Cancel::new();
        let (stop, sandbox) = (cancel.clone(), &fixture.sandbox);
        let running = scope.spawn(move || {
            let told = |reason: &str| drop(wait.send(reason.to_owned()));
            sandbox.run(&step("echo ready; sleep 1000"), &tree, &log, &stop, &told)
        });
        (Self { cancel, printed, waiting }, running)
    }
}

/// As many steps as there are slots run at once; one more is told that it waits, and can be cancelled while it does.
pub fn as_many_steps_as_slots_run_at_once(fixture: &Fixture) {
    let slots = fixture.sandbox.capabilities().slots;
    assert!(slots > 0, "there is no slot");
    thread::scope(|scope| {
        let names = (0..slots.min(MOST)).map(|number| format!("step-{number}"));
        let (sleepers, running): (Vec<_>, Vec<_>) =
            names.map(|name| Sleeper::start(fixture, scope, &name)).unzip();
        let ready = sleepers.iter().all(|sleeper| sleeper.printed.recv_timeout(LONG).is_ok());
        let waited = (ready && slots <= MOST).then(|| {
            let (late, running) = Sleeper::start(fixture, scope, "late");
            let reason = late.waiting.recv_timeout(LONG);
            late.cancel.cancel();
            let outcome = running.join().expect("it does not panic");
            (reason, outcome, late.printed.try_recv().is_ok())
        });
        // Before anything is asserted, or the scope would wait for the steps for ever.
        sleepers.iter().for_each(|sleeper| sleeper.cancel.cancel());
        for running in running {
            match running.join().expect("it does not panic") {
                Ok(outcome) => assert_eq!(outcome, Outcome::Cancelled),
                Err(error) => panic!("{}", told(&error)),
            }
        }
        assert!(ready, "{slots} slots do not run as many steps at once");
        if let Some((reason, outcome, printed)) = waited {
            let reason = reason.expect("a step that waits for a slot says so");
            assert!(!reason.is_empty(), "it says nothing");
            assert!(matches!(outcome, Ok(Outcome::Cancelled)), "{outcome:?}");
            assert!(!printed, "it ran without a slot");
        }
    });
}
