//! Nested builds at once: what waits for what, what fails and what is cancelled, and that nothing is done twice.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use obuilder_core::interpreter::{BuildError, Options};
use obuilder_core::progress::{Event, Observer, Stage};
use obuilder_core::step::Outcome;
use obuilder_core::testing::strict_sandbox::{Call, StrictSandbox};
use obuilder_core::{Cancel, Store};
use support::{World, chain, spec};

/// Nothing here waits longer.
const LONG: Duration = Duration::from_secs(20);

/// Words that steps say and wait for.
#[derive(Clone, Default)]
struct Words(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Words {
    fn say(&self, word: &str) {
        self.0.0.lock().unwrap().push(word.to_owned());
        self.0.1.notify_all();
    }

    /// Waits for `word`; says whether it came before `cancel` and in time.
    fn wait(&self, word: &str, cancel: &Cancel) -> bool {
        let wake = self.clone();
        let _wake = cancel.on_cancel(move || {
            drop(wake.0.0.lock().unwrap());
            wake.0.1.notify_all();
        });
        let missing =
            |words: &mut Vec<String>| !words.iter().any(|w| w == word) && !cancel.is_cancelled();
        let (words, _) =
            self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), LONG, missing).unwrap();
        words.iter().any(|w| w == word)
    }
}

/// Steps of words: `say W` and `wait W`, and `exit N`, one after the other, parted by commas.
fn scripted(slots: usize) -> StrictSandbox {
    let words = Words::default();
    StrictSandbox::new(move |call| Ok(play(&words, &call))).with_slots(slots)
}

fn play(words: &Words, call: &Call<'_>) -> Outcome {
    for part in call.command().to_string().split(", ") {
        match part.split_once(' ') {
            Some(("say", word)) => words.say(word),
            Some(("wait", word)) if words.wait(word, call.cancel) => {}
            Some(("wait", _)) if call.cancel.is_cancelled() => return Outcome::Cancelled,
            Some(("exit", status)) => return Outcome::Exited(status.parse().unwrap()),
            _ => return Outcome::Exited(99),
        }
    }
    Outcome::Exited(0)
}

fn nested(builds: &[(&str, &str)]) -> String {
    let builds = builds.iter().map(|(name, command)| {
        format!("(build {name} ((from image) (run (shell \"{command}\"))))")
    });
    format!("({} (from image))", builds.collect::<String>())
}

#[test]
fn builds_that_need_nothing_of_each_other_run_at_once() {
    let world = World::new(scripted(2));
    let text = nested(&[("a", "say a, wait b"), ("b", "say b, wait a")]);
    let (result, said) = world.build(&text);
    result.unwrap();
    assert!(said.text().starts_with("(build \"a\" …)\n"), "{}", said.text());
    assert_eq!(said.count("--> finished"), 2);
    world.store.assert_nothing_held();
}

#[test]
fn builds_at_any_depth_run_at_once() {
    let world = World::new(scripted(2));
    let inner = nested(&[("c", "say c, wait b")]);
    let text = format!(
        "((build a {inner}) (build b ((from image) (run (shell \"say b, wait c\")))) (from image))"
    );
    world.build(&text).0.unwrap();
    world.store.assert_nothing_held();
}

#[test]
fn what_copies_from_another_build_waits_for_it() {
    let world = World::new(scripted(4));
    let copy = "(copy (from (build a)) (src image) (dst /got))";
    let text = format!(
        "((build a ((from image) (run (shell \"wait free\"))))
          (build b ((from image) {copy} (run (shell \"say b\"))))
          (build c ((from image) (run (shell \"say free, wait b\"))))
          (from image) {copy} (run (shell \"wait b\")))"
    );
    let tree = world.tree(&text);
    assert!(tree.join("got").is_file());
    world.store.assert_nothing_held();
}

#[test]
fn with_one_slot_builds_come_in_the_order_of_the_spec() {
    let world = World::new(scripted(1));
    let (result, said) =
        world.build(&nested(&[("a", "say a"), ("b", "wait a, say b"), ("c", "wait b")]));
    result.unwrap();
    let headings: Vec<_> = said
        .text()
        .lines()
        .filter(|l| l.contains("uil") || l.contains("fini"))
        .map(str::to_owned)
        .collect();
    let expected = ["a", "b", "c"]
        .map(|name| [format!("(build \"{name}\" …)"), format!("--> finished {name}")])
        .concat();
    assert_eq!(headings, expected);
}

#[test]
fn the_build_that_failed_is_named_and_the_others_are_cancelled() {
    let world = World::new(scripted(3));
    let text = nested(&[("a", "say a, wait never"), ("b", "wait a, exit 3"), ("c", "wait never")]);
    let (result, said) = world.build(&text);
    let error = result.unwrap_err();
    assert!(chain(&error).ends_with("exit status 3"), "{}", chain(&error));
    assert_eq!(
        (said.count("failed\n"), said.count("cancelled\n") > 0),
        (1, true),
        "{}",
        said.text()
    );
    world.store.assert_nothing_held();
    assert_eq!(world.cache.failures().unwrap().len(), 1);
}

#[test]
fn of_several_failures_the_first_of_the_spec_is_told() {
    /// Lets two copies begin at the same time; neither can be cancelled after that.
    struct Together(Barrier);
    impl Observer for Together {
        fn event(&self, _: &Stage, event: Event<'_>) {
            if matches!(event, Event::Heading { text } if text.contains("(copy")) {
                self.0.wait();
            }
        }
    }
    let world = World::new(scripted(2));
    let text = "((build a ((from image) (copy (src no-a) (dst x))))
        (build b ((from image) (copy (src no-b) (dst x)))) (from image))";
    for _ in 0..20 {
        let (context, options) = (world.context(), Options::default());
        let observer = Together(Barrier::new(2));
        let result =
            world.builder.build(&spec(text), &context, &options, &Cancel::new(), &observer);
        let told = chain(&result.unwrap_err());
        assert!(told.contains("there is no `no-a`"), "{told}");
    }
    world.store.assert_nothing_held();
}

#[test]
fn a_users_cancel_reaches_all_of_them() {
    let world = World::new(scripted(2));
    let (cancel, said) = (Cancel::new(), Counting::default());
    thread::scope(|scope| {
        let text = nested(&[("a", "wait never"), ("b", "wait never"), ("c", "wait never")]);
        let (world, cancel, said) = (&world, &cancel, &said);
        let build = scope.spawn(move || {
            world.builder.build(&spec(&text), &world.context(), &Options::default(), cancel, said)
        });
        said.wait_for_steps(2);
        cancel.cancel();
        assert!(matches!(build.join().unwrap(), Err(BuildError::Cancelled)));
    });
    world.store.assert_nothing_held();
    assert_eq!(world.cache.failures().unwrap(), []);
}

/// Counts the `run` steps that were begun.
#[derive(Default)]
struct Counting(Mutex<usize>, Condvar);

impl Counting {
    fn wait_for_steps(&self, count: usize) {
        let few = |seen: &mut usize| *seen < count;
        let (seen, _) = self.1.wait_timeout_while(self.0.lock().unwrap(), LONG, few).unwrap();
        assert!(*seen >= count);
    }
}

impl Observer for Counting {
    fn event(&self, _: &Stage, event: Event<'_>) {
        if matches!(event, Event::Heading { text } if text.contains("(run")) {
            *self.0.lock().unwrap() += 1;
            self.1.notify_all();
        }
    }
}

#[test]
fn a_spec_of_two_hundred_builds_has_no_two_hundred_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, peak) = (now.clone(), most.clone());
    let world = World::new(
        StrictSandbox::new(move |_| {
            peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            counted.fetch_sub(1, Ordering::SeqCst);
            Ok(Outcome::Exited(0))
        })
        .with_slots(3),
    );
    let names: Vec<_> = (0..200).map(|number| format!("b{number}")).collect();
    let builds: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let (result, said) = world.build(&nested(&builds));
    result.unwrap();
    assert_eq!(said.count("--> finished"), 200);
    assert!(most.load(Ordering::SeqCst) <= 6, "{most:?} at once");
    world.store.assert_nothing_held();
}

/// A sandbox that counts how often it ran each command.
fn counting() -> (StrictSandbox, Arc<Mutex<HashMap<String, u32>>>) {
    let counts = Arc::new(Mutex::new(HashMap::new()));
    let counted = counts.clone();
    let sandbox = StrictSandbox::new(move |call| {
        *counted.lock().unwrap().entry(call.command().to_string()).or_default() += 1;
        call.log.write(b"done\n").unwrap();
        Ok(Outcome::Exited(0))
    });
    (sandbox.with_slots(4), counts)
}

/// Four builds of the same two steps, and two of them with one more.
fn shared() -> String {
    let steps = "(from image) (run (shell one)) (run (shell two))";
    format!(
        "((build a ({steps})) (build b ({steps} (run (shell three)))) (build c ({steps}))
          (build d ({steps} (run (shell three)))) {steps})"
    )
}

#[test]
fn what_several_builds_want_is_done_once() {
    let (sandbox, counts) = counting();
    let world = World::new(sandbox);
    let imported = Arc::new(AtomicU32::new(0));
    let no_cache = Options { no_cache: true, ..Options::default() };
    for round in 1..=5 {
        let options = if round == 1 { Options::default() } else { no_cache };
        let said = world.build_with(&shared(), &world.context(), &options, &Cancel::new());
        said.0.unwrap();
        imported.fetch_add(u32::try_from(said.1.count("importing")).unwrap(), Ordering::SeqCst);
        let expected = ["one", "two", "three"].map(|name| (name.to_owned(), round));
        assert_eq!(*counts.lock().unwrap(), HashMap::from(expected), "round {round}");
        world.store.assert_nothing_held();
    }
    assert_eq!(world.store.begun().len(), 1 + 3 * 5, "the image once, and each step once a round");
}

#[test]
fn a_changed_image_is_noticed_by_all_of_them() {
    let (sandbox, counts) = counting();
    let world = World::new(sandbox);
    for round in 1..=5 {
        world.image.change(&format!("image {round}"));
        let (result, said) = world.build(&shared());
        let tree = world.store.result(&result.unwrap()).unwrap().unwrap().rootfs();
        assert_eq!(std::fs::read_to_string(tree.join("image")).unwrap(), format!("image {round}"));
        assert_eq!(said.count("has changed"), usize::from(round > 1));
        assert!(counts.lock().unwrap().values().all(|count| *count == round), "{counts:?}");
        world.store.assert_nothing_held();
    }
}

#[test]
fn a_panic_in_one_build_does_not_leave_the_others_waiting() {
    /// Panics where `b` begins, or in it.
    struct Panics(bool);
    impl Observer for Panics {
        fn event(&self, stage: &Stage, event: Event<'_>) {
            let begins = matches!(event, Event::BuildStarted { name: "b", .. });
            let in_it = stage.0 == ["b"] && matches!(event, Event::Heading { .. });
            assert!(!(if self.0 { begins } else { in_it }), "as planned");
        }
    }
    let copy = "(build c ((from image) (copy (from (build b)) (src image) (dst x)))) (from image)";
    let text = nested(&[("a", "wait never"), ("b", "say b")]).replace(" (from image))", copy);
    let text = format!("{text})");
    for panics in [Panics(true), Panics(false)] {
        let world = World::new(scripted(2));
        let build = || {
            let (context, options) = (world.context(), Options::default());
            world.builder.build(&spec(&text), &context, &options, &Cancel::new(), &panics)
        };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build));
        assert!(caught.is_err());
        world.store.assert_nothing_held();
    }
}

#[test]
fn two_failures_of_one_shared_step_are_one() {
    let world = World::new(scripted(2));
    let (result, said) = world.build(&nested(&[("a", "exit 4"), ("b", "exit 4")]));
    assert!(chain(&result.unwrap_err()).ends_with("exit status 4"));
    assert!(said.count("failed\n") >= 1);
    world.store.assert_nothing_held();
}

#[test]
fn builds_may_be_nested_as_deep_as_a_spec_can_be() {
    let world = World::new(scripted(2));
    let deep = |name: &str| {
        let inner = format!("((from image) (run (shell \"say {name}\")))");
        (0..250).fold(inner, |inner, _| format!("((build in {inner}) (from image))"))
    };
    let text = format!("((build a {}) (build b {}) (from image))", deep("a"), deep("b"));
    let (result, said) = world.build(&text);
    result.unwrap();
    assert_eq!(said.count("--> finished in"), 500);
}
